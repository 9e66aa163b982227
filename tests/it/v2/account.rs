//! `/v2/account` and `/v2/account/activity`.

use lockable::activity::{self, Author, SignInFailure};
use lockable::tokens::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::manager::{check_instant, fields, manager, with_scope};
use crate::support::client::send;
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_a_plan_limits_and_use() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let builds = app.token(&account.private("builds").await);
    assert!(builds.acquire("a").await.verdict());
    assert!(app.token(&manager.token).acquire("b").await.verdict());
    // Neither what another account has nor what has ended counts.
    let other = app.account("business").await;
    assert!(app.token(&other.token().await).acquire("c").await.verdict());
    let (token_id, _) = account.token_with("public", Scope::Locks, None).await;
    account.revoke(token_id).await;
    let soon = Some(chrono::Utc::now() + std::time::Duration::from_millis(50));
    account.token_with("public", Scope::Locks, soon).await;
    eventually("it has expired", async || {
        let live = "SELECT count(*) FROM api_tokens WHERE expires_at > clock_timestamp()";
        (app.db.value::<i64>(live).await == 0).then_some(())
    })
    .await;
    let answer = manager.get("/v2/account").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut found = answer.json();
    check_instant(&found["created_at"]);
    found.as_object_mut().unwrap().remove("created_at");
    let expected = json!({
        "email": account.email,
        "lease_ms": null,
        "plan": {"code": "business", "name": "Business"},
        "limits": {
            "lease_min_ms": 1000, "lease_default_ms": 60_000, "lease_max_ms": 86_400_000,
            "max_private_namespaces": 20, "max_tokens": 100, "max_live_locks": 1_000_000,
            "max_waiters": 10_000, "requests_per_second": 20_000
        },
        "use": {"private_namespaces": 1, "tokens": 2, "live_locks": 2}
    });
    assert_eq!(found, expected);
    let answer = manager.get("/v2/account?verbose=true").await;
    assert_eq!(answer.problem(), (400, "unknown-parameter".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_activity_is_shown_page_by_page_and_to_its_owner_only() {
    let app = TestApp::start().await;
    let (account, other) = (app.account("business").await, app.account("business").await);
    let visitor = Author::visitor("2001:db8::7".parse().unwrap());
    let failure = SignInFailure::WrongPassword;
    activity::record_failed_sign_in(&app.db.pool, account.id, visitor, failure)
        .await
        .unwrap();
    let (mine, theirs) = (manager(&app, &account).await, manager(&app, &other).await);
    let namespace = json!({"name": "builds"});
    assert_eq!(mine.post("/v2/namespaces", &namespace).await.status, 201);

    let answer = mine.get("/v2/account/activity").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let list = answer.json();
    assert_eq!(fields(&list), ["activity", "next_cursor"]);
    assert_eq!(list["next_cursor"], Value::Null);
    let found = list["activity"].as_array().unwrap();
    for entry in found {
        assert!(entry["id"].is_string());
        check_instant(&entry["at"]);
    }
    let without = |entry: &Value| {
        let mut entry = entry.clone();
        for name in ["id", "at"] {
            entry.as_object_mut().unwrap().remove(name).unwrap();
        }
        entry
    };
    let found: Vec<_> = found.iter().map(without).collect();
    let hint = &mine.token.expose()[32..];
    let expected = [
        json!({"action": "namespace.create", "author": "owner", "means": "token",
               "token": {"label": "test", "hint": hint}, "client_ip": "127.0.0.1",
               "subject": "namespace:builds", "details": {"lease_ms": null}}),
        json!({"action": "token.create", "author": "administrator", "means": "command",
               "token": null, "client_ip": null, "subject": "token:test",
               "details": {"token_id": mine.token_id.to_string(), "hint": hint,
                           "namespace": "public", "scope": "manage", "expires_at": null}}),
        json!({"action": "account.sign-in-failed", "author": "visitor", "means": "browser",
               "token": null, "client_ip": "2001:db8::7", "subject": account.email,
               "details": {"reason": "wrong-password"}}),
    ];
    assert_eq!(found, expected);
    for limit in [1, 2, 3, 4] {
        let listed = mine.all("/v2/account/activity", "activity", limit).await;
        let listed: Vec<_> = listed.iter().map(without).collect();
        assert_eq!(listed, expected, "{limit}");
    }
    let listed = theirs.all("/v2/account/activity", "activity", 10).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    for query in ["limit=0", "limit=1001", "cursor=x", "cursor=YQ", "cursor="] {
        let answer = mine.get(&format!("/v2/account/activity?{query}")).await;
        let invalid = (400, "invalid-parameter".to_owned());
        assert_eq!(answer.problem(), invalid, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scope_locks_has_no_account_and_other_methods_are_none() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let locks = with_scope(&app, &account, Scope::Locks).await;
    let manager = manager(&app, &account).await;
    for path in ["/v2/account", "/v2/account/activity"] {
        let answer = locks.get(path).await;
        assert_eq!(answer.problem(), (404, "not-found".to_owned()), "{path}");
        let answer = send(app.anonymous().request(Method::GET, path)).await;
        let expected = (401, "credentials-missing".to_owned());
        assert_eq!(answer.problem(), expected, "{path}");
        let answer = manager.call(Method::DELETE, path).await;
        let expected = (405, "method-not-allowed".to_owned());
        assert_eq!(answer.problem(), expected, "{path}");
    }
}

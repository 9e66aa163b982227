//! What `/v2/tokens` refuses.

use lockable::accounts;
use lockable::audit::Actor;
use lockable::secret::Secret;
use lockable::tokens::Scope;
use reqwest::Method;
use serde_json::json;

use super::manager::{Manager, manager, pointed, with_scope};
use super::tokens::{create, until_refused};
use crate::activity::entries;
use crate::support::client::send;
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn values_that_break_a_rule_are_refused_by_their_place() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let long = "x".repeat(101);
    for (body, pointer) in [
        (json!({}), ""),
        (json!([]), ""),
        (json!(null), ""),
        (json!({"label": null}), "/label"),
        (json!({"label": 7}), "/label"),
        (json!({"label": ""}), "/label"),
        (json!({"label": "  "}), "/label"),
        (json!({"label": "a\tb"}), "/label"),
        (json!({"label": "a\u{0}b"}), "/label"),
        (json!({"label": long}), "/label"),
        (json!({"label": "x", "namespace": "none"}), "/namespace"),
        (json!({"label": "x", "namespace": "Ü"}), "/namespace"),
        (json!({"label": "x", "namespace": ["public"]}), "/namespace"),
        (json!({"label": "x", "scope": "all"}), "/scope"),
        (json!({"label": "x", "scope": true}), "/scope"),
        (
            json!({"label": "x", "expires_at": "2001-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (
            json!({"label": "x", "expires_at": "tomorrow"}),
            "/expires_at",
        ),
        (
            json!({"label": "x", "expires_at": "+99999-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        (
            json!({"label": "x", "expires_at": "2099-01-01T00:00:00"}),
            "/expires_at",
        ),
        (
            json!({"label": "x", "expires_at": 4_070_908_800_i64}),
            "/expires_at",
        ),
        (json!({"label": "x", "token": "mine"}), "/token"),
    ] {
        let answer = manager.post("/v2/tokens", &body).await;
        let expected = (400, "invalid-body".to_owned(), pointer.to_owned());
        assert_eq!(pointed(&answer), expected, "{body}: {answer:?}");
    }
    let path = format!("/v2/tokens/{}/rotate", manager.token_id);
    for overlap_ms in [
        json!(-1),
        json!(604_800_001),
        json!(i64::MAX),
        json!(1.5),
        json!("0"),
    ] {
        let body = json!({"overlap_ms": overlap_ms});
        let answer = manager.post(&path, &body).await;
        let expected = (400, "invalid-body".to_owned(), "/overlap_ms".to_owned());
        assert_eq!(pointed(&answer), expected, "{body}: {answer:?}");
    }
    assert_eq!(manager.all("/v2/tokens", "tokens", 10).await.len(), 1);
    assert_eq!(entries(&app.db, account.id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_account_is_not_there() {
    let app = TestApp::start().await;
    let (holder, other) = (app.account("business").await, app.account("business").await);
    let (token_id, token) = holder.token_with("public", Scope::Locks, None).await;
    let manager = manager(&app, &other).await;
    let not_found = (404, "not-found".to_owned());
    for id in [
        token_id.to_string(),
        "0".to_owned(),
        "-1".to_owned(),
        format!("+{}", manager.token_id),
        format!("0{}", manager.token_id),
        "x".to_owned(),
        "%00".to_owned(),
        "9223372036854775807".to_owned(),
        "9223372036854775808".to_owned(),
    ] {
        let answer = manager.delete(&format!("/v2/tokens/{id}")).await;
        assert_eq!(answer.problem(), not_found, "{id}");
        let rotate = format!("/v2/tokens/{id}/rotate");
        let answer = manager.post(&rotate, &json!({})).await;
        assert_eq!(answer.problem(), not_found, "{id}");
    }
    assert_eq!(app.token(&token).heartbeat("x").await.status, 200);
    let listed = manager.all("/v2/tokens", "tokens", 10).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(entries(&app.db, holder.id).await.len(), 1);
    // A namespace of another account is no choice either.
    holder.namespace("mine").await;
    let body = json!({"label": "x", "namespace": "mine"});
    let answer = manager.post("/v2/tokens", &body).await;
    assert_eq!(pointed(&answer).2, "/namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scope_locks_and_lost_rights_get_nowhere() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let locks = with_scope(&app, &account, Scope::Locks).await;
    let id = manager.token_id;
    let calls = [
        (Method::GET, "/v2/tokens".to_owned(), None),
        (
            Method::POST,
            "/v2/tokens".to_owned(),
            Some(json!({"label": "x"})),
        ),
        // Nothing is said of a body before the right to send one is known.
        (
            Method::POST,
            "/v2/tokens".to_owned(),
            Some(json!({"lable": 1})),
        ),
        (Method::POST, format!("/v2/tokens/{id}/rotate"), None),
        (Method::DELETE, format!("/v2/tokens/{id}"), None),
    ];
    let each = async |client: &Manager, expected: (u16, &str)| {
        for (method, path, body) in &calls {
            let answer = match body {
                Some(body) => client.send(method.clone(), path, body).await,
                None => client.call(method.clone(), path).await,
            };
            let expected = (expected.0, expected.1.to_owned());
            assert_eq!(answer.problem(), expected, "{method} {path}");
        }
    };
    each(&locks, (404, "not-found")).await;
    let mut unknown = manager.clone();
    unknown.token = Secret::random();
    each(&unknown, (401, "token-refused")).await;
    for (method, path, _) in &calls {
        let answer = send(app.anonymous().request(method.clone(), path)).await;
        let expected = (401, "credentials-missing".to_owned());
        assert_eq!(answer.problem(), expected, "{method} {path}");
    }
    let revoked = with_scope(&app, &account, Scope::Manage).await;
    assert_eq!(revoked.get("/v2/tokens").await.status, 200);
    account.revoke(revoked.token_id).await;
    until_refused(&app, &revoked.token).await;
    each(&revoked, (401, "token-refused")).await;
    accounts::suspend(&app.db.pool, &Actor::command("test"), account.id, "a test")
        .await
        .unwrap();
    until_refused(&app, &manager.token).await;
    each(&manager, (401, "token-refused")).await;
    let live = "SELECT count(*) FROM api_tokens WHERE revoked_at IS NULL";
    assert_eq!(app.db.value::<i64>(live).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_mail_server_tokens_need_a_confirmed_address() {
    let app = TestApp::start_with(|settings| {
        settings.smtp_url = Some("smtp://127.0.0.1:9".parse().unwrap());
    })
    .await;
    let account = app.account("hobbyist").await;
    let manager = manager(&app, &account).await;
    create(&manager, json!({"label": "x"})).await;
    app.db
        .execute("UPDATE accounts SET email_verified_at = NULL")
        .await;
    let answer = manager.post("/v2/tokens", &json!({"label": "x"})).await;
    assert_eq!(
        answer.problem(),
        (403, "email-not-confirmed".to_owned()),
        "{answer:?}"
    );
}

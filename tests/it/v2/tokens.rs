//! `/v2/tokens`.

use std::time::Duration;

use chrono::Utc;
use lockable::audit::Actor;
use lockable::secret::Secret;
use lockable::tokens::Scope;
use lockable::{accounts, plans};
use reqwest::Method;
use serde_json::{Value, json};

use super::manager::{Manager, check_instant, fields, manager, pointed, with_scope};
use crate::activity::entries;
use crate::support::answer::Answer;
use crate::support::client::send;
use crate::support::prelude::*;

/// The secret of a token that was just issued.
#[track_caller]
fn issued(answer: &Answer) -> Secret {
    Secret::new(answer.json()["token"].as_str().unwrap())
}

/// The id of a token.
#[track_caller]
fn id(token: &Value) -> String {
    token["id"].as_str().unwrap().to_owned()
}

async fn create(manager: &Manager, body: Value) -> Value {
    let answer = manager.post("/v2/tokens", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

/// Waits until a token is refused.
async fn until_refused(app: &TestApp, token: &Secret) {
    eventually("the token is refused", async || {
        (app.token(token).heartbeat("x").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_created_used_listed_and_revoked() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    account.namespace("builds").await;
    let manager = manager(&app, &account).await;
    let expires_at = "2099-01-31T12:00:00.500Z";
    let body = json!({"label": " nightly ", "namespace": "builds", "scope": "locks",
                      "expires_at": "2099-01-31T13:00:00.5+01:00"});
    let answer = manager.post("/v2/tokens", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.required("content-type"), "application/json");
    assert_eq!(answer.required("cache-control"), "no-store");
    let (made, token) = (answer.json(), issued(&answer));
    let expected = [
        "created_at",
        "expires_at",
        "hint",
        "id",
        "label",
        "last_used_at",
        "namespace",
        "scope",
        "token",
    ];
    assert_eq!(fields(&made), expected);
    assert_eq!(
        (&made["label"], &made["namespace"], &made["scope"]),
        (&json!("nightly"), &json!("builds"), &json!("locks"))
    );
    assert_eq!(made["hint"], token.expose()[32..]);
    assert_eq!(made["expires_at"], expires_at);
    assert_eq!(made["last_used_at"], Value::Null);
    check_instant(&made["created_at"]);
    assert!(app.token(&token).acquire("job").await.verdict());

    let list = manager.get("/v2/tokens").await;
    assert_eq!(list.status, 200);
    assert!(!list.text.contains(token.expose()), "{list:?}");
    let list = list.json();
    assert_eq!(fields(&list), ["next_cursor", "tokens"]);
    let tokens = list["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2, "{list}");
    assert_eq!(id(&tokens[0]), id(&made), "the newest first");
    assert_eq!(id(&tokens[1]), manager.token_id.to_string());
    assert_eq!(tokens[1]["scope"], "manage");
    let mut without = made.clone();
    without.as_object_mut().unwrap().remove("token");
    let mut listed = tokens[0].clone();
    listed["last_used_at"] = Value::Null;
    assert_eq!(listed, without);

    let path = format!("/v2/tokens/{}", id(&made));
    let answer = manager.delete(&path).await;
    assert_eq!((answer.status.as_u16(), &*answer.text), (204, ""));
    until_refused(&app, &token).await;
    let again = manager.delete(&path).await;
    assert_eq!(again.problem(), (404, "not-found".to_owned()));
    assert_eq!(manager.all("/v2/tokens", "tokens", 10).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_has_the_pages_defaults() {
    let app = TestApp::start().await;
    let manager = manager(&app, &app.account("hobbyist").await).await;
    for body in [
        json!({"label": "x"}),
        json!({"label": "x", "namespace": null, "scope": null, "expires_at": null}),
    ] {
        let made = create(&manager, body).await;
        assert_eq!(made["namespace"], "public");
        assert_eq!(made["scope"], "locks");
        assert_eq!(made["expires_at"], Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_works_for_as_long_as_was_asked_beside_its_successor() {
    let app = TestApp::start().await;
    let account = app.account("hobbyist").await;
    let manager = manager(&app, &account).await;
    let body = json!({"label": "nightly", "expires_at": "2099-01-01T00:00:00Z"});
    let answer = manager.post("/v2/tokens", &body).await;
    let (old, old_token) = (answer.json(), issued(&answer));
    let path = format!("/v2/tokens/{}/rotate", id(&old));
    let answer = manager.post(&path, &json!({"overlap_ms": 3_600_000})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let (new, new_token) = (answer.json(), issued(&answer));
    assert_eq!(fields(&new), fields(&old));
    assert_ne!((id(&new), &new_token), (id(&old), &old_token));
    for same in ["label", "namespace", "scope", "expires_at"] {
        assert_eq!(new[same], old[same]);
    }
    for token in [&old_token, &new_token] {
        assert_eq!(app.token(token).heartbeat("x").await.status, 200);
    }
    let listed = manager.all("/v2/tokens", "tokens", 10).await;
    let retired = listed.iter().find(|token| id(token) == id(&old)).unwrap();
    let end = retired["expires_at"].as_str().unwrap();
    let end = end.parse::<chrono::DateTime<Utc>>().unwrap();
    assert!(end <= Utc::now() + Duration::from_secs(3600), "{end}");

    // Without an overlap the old one ends at once. The body may be left out.
    let path = format!("/v2/tokens/{}/rotate", id(&new));
    let answer = manager.call(Method::POST, &path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let last = issued(&answer);
    until_refused(&app, &new_token).await;
    assert_eq!(app.token(&last).heartbeat("x").await.status, 200);
    // Sent again, it finds no token any more.
    let again = manager.call(Method::POST, &path).await;
    assert_eq!(again.problem(), (404, "not-found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_rotate_and_revoke_itself() {
    let app = TestApp::start().await;
    let account = app.account("hobbyist").await;
    let first = manager(&app, &account).await;
    let path = format!("/v2/tokens/{}/rotate", first.token_id);
    let answer = first.post(&path, &json!({"overlap_ms": 60_000})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let next = app.token(&issued(&answer));
    let list = next.get("/v2/tokens").await;
    assert_eq!(list.status, 200, "{list:?}");
    let answer = first
        .delete(&format!("/v2/tokens/{}", first.token_id))
        .await;
    assert_eq!(answer.status, 204);
    until_refused(&app, &first.token).await;
    assert_eq!(next.get("/v2/tokens").await.status, 200);
    let all = entries(&app.db, account.id).await;
    let last = all.last().unwrap();
    assert_eq!(
        (&*last.action, last.token_label.as_deref()),
        ("token.revoke", Some("test"))
    );
}

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
async fn the_plan_limits_the_number_of_tokens() {
    let app = TestApp::start().await;
    let account = app.account("hobbyist").await;
    let manager = manager(&app, &account).await;
    let hobbyist = plans::find(&app.db.pool, "hobbyist").await.unwrap();
    for _ in 1..hobbyist.limits.max_tokens {
        create(&manager, json!({"label": "x"})).await;
    }
    let one_more = manager.post("/v2/tokens", &json!({"label": "x"})).await;
    assert_eq!(
        one_more.problem(),
        (403, "plan-does-not-allow".to_owned()),
        "{one_more:?}"
    );
    // A rotation may have one token more, and only one.
    let path = format!("/v2/tokens/{}/rotate", manager.token_id);
    let overlap = json!({"overlap_ms": 1000});
    assert_eq!(manager.post(&path, &overlap).await.status, 200);
    let answer = manager.post(&path, &overlap).await;
    let code = answer.problem().1;
    assert!(
        ["plan-does-not-allow", "token-refused"].contains(&&*code),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_requests_with_room_for_one_token_one_succeeds() {
    let app = TestApp::start().await;
    let account = app.account("hobbyist").await;
    let manager = manager(&app, &account).await;
    let node = app.another_node().await;
    let there = Manager {
        client: node.anonymous(),
        ..manager.clone()
    };
    for _ in 0..8 {
        create(&manager, json!({"label": "x"})).await;
    }
    let body = json!({"label": "the last"});
    let (one, other) = tokio::join!(
        manager.post("/v2/tokens", &body),
        there.post("/v2/tokens", &body)
    );
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 403]);
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

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_page_by_page() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let mut expected = vec![manager.token_id.to_string()];
    for _ in 0..7 {
        expected.push(id(&create(&manager, json!({"label": "x"})).await));
    }
    expected.reverse();
    for limit in [1, 3, 4, 8, 100] {
        let listed = manager.all("/v2/tokens", "tokens", limit).await;
        let listed: Vec<_> = listed.iter().map(id).collect();
        assert_eq!(listed, expected, "{limit}");
    }
    for query in [
        "limit=0",
        "limit=-1",
        "limit=100000",
        "limit=x",
        "cursor=x",
        "cursor=%00",
        "cursor=",
    ] {
        let answer = manager.get(&format!("/v2/tokens?{query}")).await;
        let invalid = (400, "invalid-parameter".to_owned());
        assert_eq!(answer.problem(), invalid, "{query}");
    }
    let answer = manager.get("/v2/tokens?page=2").await;
    assert_eq!(answer.problem(), (400, "unknown-parameter".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_stand_in_the_activity_with_the_token_that_did_them() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let made = create(&manager, json!({"label": "nightly"})).await;
    let path = format!("/v2/tokens/{}", id(&made));
    let rotated = manager.call(Method::POST, &format!("{path}/rotate")).await;
    let path = format!("/v2/tokens/{}", id(&rotated.json()));
    assert_eq!(manager.delete(&path).await.status, 204);
    let all = entries(&app.db, account.id).await;
    let found: Vec<_> = all[1..]
        .iter()
        .map(|entry| {
            assert_eq!(entry.token_label.as_deref(), Some("test"));
            assert_eq!(entry.client_ip.as_deref(), Some("127.0.0.1"));
            (&*entry.action, &*entry.author, &*entry.means)
        })
        .collect();
    let expected = [
        ("token.create", "owner", "token"),
        ("token.rotate", "owner", "token"),
        ("token.revoke", "owner", "token"),
    ];
    assert_eq!(found, expected);
}

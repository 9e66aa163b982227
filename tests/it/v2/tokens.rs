//! `/v2/tokens`.

use std::time::Duration;

use chrono::Utc;
use lockable::plans;
use lockable::secret::Secret;
use lockable::tokens::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::manager::{Manager, check_instant, fields, manager};
use crate::activity::entries;
use crate::support::answer::Answer;
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

pub(crate) async fn create(manager: &Manager, body: Value) -> Value {
    let answer = manager.post("/v2/tokens", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()
}

/// Waits until a token is refused.
pub(crate) async fn until_refused(app: &TestApp, token: &Secret) {
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
async fn of_two_rotations_or_revocations_of_a_token_at_once_one_succeeds() {
    let app = TestApp::start().await;
    let account = app.account("hobbyist").await;
    let here = manager(&app, &account).await;
    let node = app.another_node().await;
    let there = Manager {
        client: node.anonymous(),
        ..here.clone()
    };
    let statuses = |one: Answer, other: Answer| {
        let mut statuses = [one.status.as_u16(), other.status.as_u16()];
        statuses.sort_unstable();
        statuses
    };
    let (token_id, _) = account.token_with("public", Scope::Locks, None).await;
    let path = format!("/v2/tokens/{token_id}/rotate");
    let (one, other) = tokio::join!(
        here.call(Method::POST, &path),
        there.call(Method::POST, &path)
    );
    assert_eq!(statuses(one, other), [200, 404]);
    let (token_id, _) = account.token_with("public", Scope::Locks, None).await;
    let path = format!("/v2/tokens/{token_id}");
    let (one, other) = tokio::join!(here.delete(&path), there.delete(&path));
    assert_eq!(statuses(one, other), [204, 404]);
    let all = entries(&app.db, account.id).await;
    let acts: Vec<_> = all.iter().map(|entry| entry.action.as_str()).collect();
    let expected = [
        "token.create",
        "token.create",
        "token.rotate",
        "token.create",
        "token.revoke",
    ];
    assert_eq!(acts, expected);
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

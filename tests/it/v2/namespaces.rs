//! `/v2/namespaces`.

use lockable::audit::Actor;
use lockable::secret::Secret;
use lockable::tokens::Scope;
use lockable::{accounts, plans};
use reqwest::Method;
use serde_json::{Value, json};

use super::manager::{Manager, check_instant, fields, manager, pointed, with_scope};
use crate::activity::entries;
use crate::support::prelude::*;

fn code(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_created_changed_listed_and_deleted() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let body = json!({"name": "builds", "lease_ms": 5000});
    let answer = manager.post("/v2/namespaces", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.required("content-type"), "application/json");
    let made = answer.json();
    assert_eq!(fields(&made), ["created_at", "lease_ms", "name"]);
    assert_eq!(
        (&made["name"], &made["lease_ms"]),
        (&json!("builds"), &json!(5000))
    );
    check_instant(&made["created_at"]);
    let token = account.token_for("builds").await;
    let lease_ms = async |name: &str| {
        let answer = app.token(&token).acquire(name).await;
        answer.number("lockable-lease-ms")
    };
    assert_eq!(lease_ms("a").await, 5000);

    let path = "/v2/namespaces/builds";
    for (sent, now) in [(json!(7000), json!(7000)), (Value::Null, Value::Null)] {
        // A repeated request has its effect once.
        for _ in 0..2 {
            let answer = manager.patch(path, &json!({"lease_ms": sent})).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let changed = answer.json();
            assert_eq!(changed["lease_ms"], now);
            assert_eq!(changed["created_at"], made["created_at"]);
        }
    }
    eventually("the plan's default", async || {
        let name = uuid::Uuid::new_v4().to_string();
        (lease_ms(&name).await == 60_000).then_some(())
    })
    .await;
    let list = manager.get("/v2/namespaces").await.json();
    assert_eq!(fields(&list), ["namespaces", "next_cursor"]);
    assert_eq!(list["namespaces"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list["namespaces"][0]["name"], "builds");

    let held = manager.delete(path).await;
    assert_eq!(held.problem(), code(409, "namespace-in-use"));
    app.db
        .execute("DELETE FROM locks WHERE namespace_id <> 1")
        .await;
    let answer = manager.delete(path).await;
    assert_eq!((answer.status.as_u16(), &*answer.text), (204, ""));
    let again = manager.delete(path).await;
    assert_eq!(again.problem(), code(404, "not-found"));
    eventually("its token is refused", async || {
        (app.token(&token).acquire("a").await.status == 401).then_some(())
    })
    .await;
    let list = manager.get("/v2/namespaces").await.json();
    assert_eq!(list, json!({"namespaces": [], "next_cursor": null}));

    let all = entries(&app.db, account.id).await;
    let found: Vec<_> = all
        .iter()
        .filter(|entry| entry.means == "token")
        .map(|entry| {
            assert_eq!(entry.author, "owner");
            assert_eq!(entry.token_label.as_deref(), Some("test"));
            assert_eq!(entry.client_ip.as_deref(), Some("127.0.0.1"));
            assert_eq!(entry.subject, "namespace:builds");
            entry.action.as_str()
        })
        .collect();
    let expected = [
        "namespace.create",
        "namespace.set-lease",
        "namespace.set-lease",
        "namespace.delete",
    ];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_break_a_rule_are_refused_by_their_place() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let long = "x".repeat(64);
    for (body, pointer) in [
        (json!({}), ""),
        (json!(["builds"]), ""),
        (json!(["builds", null]), ""),
        (json!({"name": null}), "/name"),
        (json!({"name": 7}), "/name"),
        (json!({"name": ""}), "/name"),
        (json!({"name": "Builds"}), "/name"),
        (json!({"name": "a b"}), "/name"),
        (json!({"name": "a\u{0}"}), "/name"),
        (json!({"name": long}), "/name"),
        (json!({"name": "public"}), "/name"),
        (json!({"name": "x", "lease_ms": 999}), "/lease_ms"),
        (json!({"name": "x", "lease_ms": 86_400_001}), "/lease_ms"),
        (json!({"name": "x", "lease_ms": i64::MIN}), "/lease_ms"),
        (json!({"name": "x", "lease_ms": "5000"}), "/lease_ms"),
        (json!({"name": "x", "lease_ms": 1000.5}), "/lease_ms"),
        (json!({"name": "x", "lease": 5000}), "/lease"),
    ] {
        let answer = manager.post("/v2/namespaces", &body).await;
        let expected = (400, "invalid-body".to_owned(), pointer.to_owned());
        assert_eq!(pointed(&answer), expected, "{body}: {answer:?}");
    }
    let list = manager.get("/v2/namespaces").await.json();
    assert_eq!(list["namespaces"], json!([]), "nothing was created");
    account.namespace("builds").await;
    for (body, pointer) in [
        (json!({}), ""),
        (json!({"lease_ms": 999}), "/lease_ms"),
        (json!({"lease_ms": true}), "/lease_ms"),
        (json!({"lease_ms": 5000, "name": "other"}), "/name"),
    ] {
        let answer = manager.patch("/v2/namespaces/builds", &body).await;
        let expected = (400, "invalid-body".to_owned(), pointer.to_owned());
        assert_eq!(pointed(&answer), expected, "{body}: {answer:?}");
    }
    let taken = manager
        .post("/v2/namespaces", &json!({"name": "builds"}))
        .await;
    assert_eq!(taken.problem(), code(409, "namespace-taken"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_another_account_is_not_there() {
    let app = TestApp::start().await;
    let (owner, other) = (app.account("business").await, app.account("business").await);
    owner.namespace("mine").await;
    let manager = manager(&app, &other).await;
    let long = "x".repeat(300);
    for name in ["mine", "public", "none", "%00", "%FF", "a%2Fb", "Ü", &long] {
        let path = format!("/v2/namespaces/{name}");
        let answer = manager.delete(&path).await;
        assert_eq!(answer.problem(), code(404, "not-found"), "{name}");
        let answer = manager.patch(&path, &json!({"lease_ms": 5000})).await;
        assert_eq!(answer.problem(), code(404, "not-found"), "{name}");
    }
    // Each account has its own names.
    let mine = json!({"name": "mine"});
    assert_eq!(manager.post("/v2/namespaces", &mine).await.status, 201);
    let left = "SELECT count(*) FROM namespaces WHERE name = 'mine' AND lease_default_ms IS NULL";
    assert_eq!(app.db.value::<i64>(left).await, 2);
    assert_eq!(entries(&app.db, owner.id).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plan_decides_about_namespaces() {
    let app = TestApp::start().await;
    let hobbyist = manager(&app, &app.account("hobbyist").await).await;
    let body = json!({"name": "builds"});
    let answer = hobbyist.post("/v2/namespaces", &body).await;
    assert_eq!(answer.problem(), code(403, "plan-does-not-allow"));

    let account = app.account("business").await;
    let business = manager(&app, &account).await;
    let plan = plans::find(&app.db.pool, "business").await.unwrap();
    let max = plan.limits.max_private_namespaces;
    for number in 1..max {
        let body = json!({"name": format!("n{number}")});
        assert_eq!(business.post("/v2/namespaces", &body).await.status, 201);
    }
    // Of two at once with room for one, on two nodes, one succeeds.
    let node = app.another_node().await;
    let there = Manager {
        client: node.anonymous(),
        ..business.clone()
    };
    let (one, other) = (json!({"name": "one"}), json!({"name": "other"}));
    let (one, other) = tokio::join!(
        business.post("/v2/namespaces", &one),
        there.post("/v2/namespaces", &other)
    );
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 403]);

    // On a plan with one lease for all there is none to choose.
    accounts::set_plan(
        &app.db.pool,
        &Actor::command("test"),
        account.id,
        "hobbyist",
    )
    .await
    .unwrap();
    let lease = json!({"lease_ms": 60_000});
    let answer = business.patch("/v2/namespaces/n1", &lease).await;
    assert_eq!(answer.problem(), code(403, "plan-does-not-allow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_created_twice_at_once_is_one_namespace() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let body = json!({"name": "builds"});
    let (one, other) = tokio::join!(
        manager.post("/v2/namespaces", &body),
        manager.post("/v2/namespaces", &body)
    );
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409]);
    let all = entries(&app.db, account.id).await;
    let created = all.iter().filter(|e| e.action == "namespace.create");
    assert_eq!(created.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scope_locks_and_lost_rights_get_nowhere() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    account.namespace("builds").await;
    let manager = manager(&app, &account).await;
    let locks = with_scope(&app, &account, Scope::Locks).await;
    let calls = [
        (Method::GET, "/v2/namespaces", None),
        (
            Method::POST,
            "/v2/namespaces",
            Some(json!({"name": "other"})),
        ),
        (
            Method::PATCH,
            "/v2/namespaces/builds",
            Some(json!({"lease_ms": 5000})),
        ),
        (Method::PATCH, "/v2/namespaces/builds", Some(json!({}))),
        (Method::DELETE, "/v2/namespaces/builds", None),
    ];
    let each = async |client: &Manager, expected: (u16, String)| {
        for (method, path, body) in &calls {
            let answer = match body {
                Some(body) => client.send(method.clone(), path, body).await,
                None => client.call(method.clone(), path).await,
            };
            assert_eq!(answer.problem(), expected, "{method} {path}");
        }
    };
    each(&locks, code(404, "not-found")).await;
    let mut unknown = manager.clone();
    unknown.token = Secret::random();
    each(&unknown, code(401, "token-refused")).await;
    accounts::suspend(&app.db.pool, &Actor::command("test"), account.id, "a test")
        .await
        .unwrap();
    eventually("the account's tokens are refused", async || {
        let answer = app.token(&manager.token).heartbeat("x").await;
        (answer.status == 401).then_some(())
    })
    .await;
    each(&manager, code(401, "token-refused")).await;
    let left = "SELECT count(*) FROM namespaces WHERE name = 'builds' AND lease_default_ms IS NULL";
    assert_eq!(app.db.value::<i64>(left).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_page_by_page() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let manager = manager(&app, &account).await;
    let other = app.account("business").await;
    for name in ["b", "a-1", "a", "a1", "0", "c"] {
        account.namespace(name).await;
        other.namespace(&format!("{name}-other")).await;
    }
    for limit in [1, 2, 3, 6, 1000] {
        let listed = manager.all("/v2/namespaces", "namespaces", limit).await;
        let names: Vec<_> = listed
            .iter()
            .map(|namespace| namespace["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["0", "a", "a-1", "a1", "b", "c"], "{limit}");
    }
    for query in ["limit=0", "limit=1001", "cursor=%00", "cursor=AA"] {
        let answer = manager.get(&format!("/v2/namespaces?{query}")).await;
        assert_eq!(answer.problem(), code(400, "invalid-parameter"), "{query}");
    }
}

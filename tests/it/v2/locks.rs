//! Taking, keeping, giving back and seeing one lock.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::kit::*;

fn time(value: &Value) -> DateTime<Utc> {
    let text = value.as_str().unwrap();
    assert_eq!(text.len(), "2026-11-27T05:00:00.123Z".len(), "{text}");
    assert!(text.ends_with('Z'));
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_granted_renewed_released_and_seen() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let lease_id = new_id();
    let asked = json!({
        "lease_id": lease_id, "lease_ms": 20_000, "max_hold_ms": 3_600_000,
        "holder": "worker-7:4711", "metadata": {"run": [1, {"a": null}]},
    });
    let lease = locks.lease("a%2Fb", &asked).await;
    assert!(lease["fencing_token"].as_i64().unwrap() > 0);
    let length = time(&lease["expires_at"]) - time(&lease["acquired_at"]);
    assert_eq!(length.num_milliseconds(), 20_000);
    let expected = json!({
        "namespace": "jobs", "name": "a/b", "lease_id": lease_id,
        "fencing_token": lease["fencing_token"], "mode": "exclusive", "limit": null, "slot": null,
        "lease_ms": 20_000, "expires_in_ms": 20_000, "max_hold_ms": 3_600_000,
        "acquired_at": lease["acquired_at"], "expires_at": lease["expires_at"], "waited_ms": 0,
        "holder": "worker-7:4711", "metadata": {"run": [1, {"a": null}]},
    });
    assert_eq!(lease, expected);

    let renewal = json!({"lease_id": lease_id, "lease_ms": 50_000});
    let answer = locks.call("a%2Fb", "heartbeat", &renewal).await;
    assert_eq!(answer.required("content-type"), "application/json");
    assert_eq!(answer.required("cache-control"), "no-store");
    let renewed = answer.json();
    let mut expected = expected;
    expected["expires_at"] = renewed["expires_at"].clone();
    expected["expires_in_ms"] = json!(50_000);
    assert_eq!(renewed, expected);
    assert!(time(&renewed["expires_at"]) > time(&lease["expires_at"]));

    let lock = locks.lock("a%2Fb").await;
    let mut seen = lock["leases"][0].clone();
    let remaining = seen["expires_in_ms"].as_i64().unwrap();
    assert!((1..=50_000).contains(&remaining), "{lock}");
    seen["expires_in_ms"] = json!(50_000);
    assert_eq!(seen, expected);
    assert_eq!(lock["state"], "held");
    assert_eq!(lock["mode"], "exclusive");
    assert_eq!(
        (&lock["queue"], &lock["queue_length"]),
        (&json!([]), &json!(0))
    );

    let answer = locks.call("a%2Fb", "release", &id(&lease_id)).await;
    assert_eq!(answer.json(), json!({"released": true}));
    let lock = locks.lock("a%2Fb").await;
    let free = json!({
        "namespace": "jobs", "name": "a/b", "state": "free", "mode": null, "limit": null,
        "leases": [], "queue": [], "queue_length": 0,
    });
    assert_eq!(lock, free);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_needs_no_body_and_draws_an_id() {
    let app = TestApp::start().await;
    let locks = Locks::public(&app, "hobbyist").await;
    let path = locks.path("locks/job/acquire");
    let request = locks.client.request(reqwest::Method::POST, &path);
    let lease = crate::support::client::send(request).await.json();
    assert_eq!(lease["lease_ms"], 60_000);
    let (status, code, document) = refused(&locks.call("job", "acquire", &json!({})).await);
    assert_eq!((status, &*code), (409, "lock-held"));
    assert_eq!(
        (&document["waited_ms"], &document["retry_after_ms"]),
        (&json!(0), &json!(1000))
    );
    let renewed = locks
        .call("job", "heartbeat", &id(&lease["lease_id"]))
        .await;
    assert_eq!(renewed.json()["fencing_token"], lease["fencing_token"]);
    let released = locks.call("job", "release", &id(&lease["lease_id"])).await;
    assert_eq!(released.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_service_is_behind_both_versions() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let token = account.private("jobs").await;
    let locks = Locks::new(&app, &token, "jobs");
    let lease = locks.lease("job", &json!({})).await;
    let lease_id = lease["lease_id"].as_str().unwrap();
    let first = async |path: &str| locks.client.get(path).await.verdict();
    assert!(!first("/v1/acquire/job").await);
    // Every lease of version 2 needs its id.
    assert!(!first("/v1/heartbeat/job").await);
    assert!(first(&format!("/v1/heartbeat/job?lease_id={lease_id}")).await);
    assert!(first(&format!("/v1/release/job?lease_id={lease_id}")).await);
    assert!(first("/v1/acquire/job").await);
    assert_eq!(locks.lock("job").await["state"], "held");
    let (_, code, document) = refused(&locks.call("job", "acquire", &json!({})).await);
    assert_eq!(code, "lock-held");
    let leases = document["leases"].as_array().unwrap();
    assert_eq!((leases.len(), &document["queue_length"]), (1, &json!(0)));
    let wait = document["retry_after_ms"].as_i64().unwrap();
    assert!((1..=60_000).contains(&wait), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_leases_say_why() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let locks = Locks::new(&app, &account.private("jobs").await, "jobs");
    let reason = async |name: &str, call: &str, lease_id: &Value| {
        let (status, code, document) = refused(&locks.call(name, call, &id(lease_id)).await);
        assert_eq!((status, &*code), (409, "lease-lost"));
        document["reason"].as_str().unwrap().to_owned()
    };
    let unknown = new_id();
    assert_eq!(reason("job", "heartbeat", &unknown).await, "unknown");
    let lease = locks.lease("job", &json!({"lease_ms": 1000})).await;
    app.db
        .execute("UPDATE locks SET expires_at = clock_timestamp(), lease_ms = 1")
        .await;
    assert_eq!(
        reason("job", "heartbeat", &lease["lease_id"]).await,
        "expired"
    );
    assert_eq!(
        reason("job", "release", &lease["lease_id"]).await,
        "expired"
    );
    locks.lease("job", &json!({})).await;
    let superseded = reason("job", "heartbeat", &lease["lease_id"]).await;
    assert!(
        ["superseded", "expired"].contains(&&*superseded),
        "{superseded}"
    );
    let lease = locks.lease("other", &json!({"max_hold_ms": 600_000})).await;
    app.db
        .execute(
            "UPDATE locks SET acquired_at = acquired_at - interval '600 s' WHERE name = 'other'",
        )
        .await;
    assert_eq!(
        reason("other", "heartbeat", &lease["lease_id"]).await,
        "hold-limit"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_the_lock_or_says_how_long_it_was() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let held = locks.lease("job", &json!({})).await;
    let short = locks.call("job", "acquire", &json!({"wait_ms": 300})).await;
    let (_, code, document) = refused(&short);
    assert_eq!(code, "lock-held");
    assert!(document["waited_ms"].as_i64().unwrap() >= 300, "{document}");
    let waiting = locks.clone();
    let waiter = tokio::spawn(async move {
        let asked = json!({"wait_ms": 60_000, "holder": "second"});
        waiting.lease("job", &asked).await
    });
    let queue = eventually("it stands in the queue", async || {
        let queue = locks.lock("job").await["queue"].clone();
        (queue[0]["holder"] == "second").then_some(queue)
    })
    .await;
    assert_eq!(queue[0]["position"], 1);
    assert_eq!(queue[0]["mode"], "exclusive");
    assert_eq!(queue[0]["detached"], false);
    locks.call("job", "release", &id(&held["lease_id"])).await;
    let lease = waiter.await.unwrap();
    assert!(lease["waited_ms"].as_i64().unwrap() > 0);
    assert!(lease["fencing_token"].as_i64() > held["fencing_token"].as_i64());
}

#[tokio::test(flavor = "multi_thread")]
async fn others_learn_of_a_public_lock_whether_it_is_held_and_nothing_else() {
    let app = TestApp::start().await;
    let (holder, other) = (
        Locks::public(&app, "business").await,
        Locks::public(&app, "business").await,
    );
    let asked = json!({"holder": "me", "metadata": {"secret": 1}, "limit": 3});
    let lease = holder.lease("job", &asked).await;
    let seen = other.lock("job").await;
    let nothing_else = json!({
        "namespace": "public", "name": "job", "state": "held", "mode": null, "limit": null,
        "leases": [], "queue": [], "queue_length": null,
    });
    assert_eq!(seen, nothing_else);
    let own = holder.lock("job").await;
    assert_eq!(own["leases"][0]["lease_id"], lease["lease_id"]);
    assert_eq!(
        (&own["mode"], &own["limit"]),
        (&json!("semaphore"), &json!(3))
    );
    // A conflict would tell of the limit.
    let (_, code, document) = refused(&other.call("job", "acquire", &json!({"limit": 4})).await);
    assert_eq!(code, "lock-held");
    assert_eq!(document["retry_after_ms"], 1000);
    let extra = ["leases", "queue_length", "limit", "mode"];
    assert!(
        extra.iter().all(|field| document.get(field).is_none()),
        "{document}"
    );
    let (status, code, _) = refused(&other.get("locks").await);
    assert_eq!((status, &*code), (404, "not-found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn held_locks_are_listed_by_prefix_and_page() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    for name in ["a", "b%2F1", "b%2F2", "b%2F3", "c"] {
        locks.lease(name, &json!({"holder": name})).await;
    }
    locks.lease("b%2F2x", &json!({"limit": 2})).await;
    locks.lease("b%2F2x", &json!({"limit": 2})).await;
    let free = locks.lease("b%2F9", &json!({})).await;
    locks.call("b%2F9", "release", &id(&free["lease_id"])).await;
    let names = |page: &Value| -> Vec<String> {
        let locks = page["locks"].as_array().unwrap();
        let name = |lock: &Value| lock["name"].as_str().unwrap().to_owned();
        locks.iter().map(name).collect()
    };
    let page = locks.get("locks?prefix=b%2F&limit=3").await.json();
    assert_eq!(names(&page), ["b/1", "b/2", "b/2x"]);
    assert_eq!(page["locks"][2]["leases"].as_array().unwrap().len(), 2);
    assert_eq!(page["locks"][0].get("queue"), None);
    let cursor = page["next_cursor"].as_str().unwrap();
    let path = format!("locks?prefix=b%2F&limit=3&cursor={cursor}");
    let page = locks.get(&path).await.json();
    assert_eq!(names(&page), ["b/3"]);
    assert_eq!(page["next_cursor"], Value::Null);
    let all = locks.get("locks").await.json();
    assert_eq!(names(&all), ["a", "b/1", "b/2", "b/2x", "b/3", "c"]);
    let none = locks.get("locks?prefix=zz").await.json();
    assert_eq!(none, json!({"locks": [], "next_cursor": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_scope_locks_has_its_own_namespace_only() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let token = account.private("jobs").await;
    account.namespace("more").await;
    for namespace in ["public", "more", "nobodys", "JOBS", "jobs%00"] {
        let locks = Locks::new(&app, &token, namespace);
        let answers = [
            locks.call("job", "acquire", &json!({})).await,
            locks.call("job", "release", &id(&new_id())).await,
            locks.get("locks/job").await,
            locks.get("locks").await,
        ];
        for answer in answers {
            assert_eq!(
                answer.problem(),
                (404, "not-found".to_owned()),
                "{namespace}"
            );
        }
    }
    let (_, manage) = account
        .token_with("jobs", lockable::tokens::Scope::Manage, None)
        .await;
    for namespace in ["public", "more", "jobs"] {
        Locks::new(&app, &manage, namespace)
            .lease("job", &json!({}))
            .await;
    }
    let others = Locks::new(&app, &manage, "nobodys");
    let answer = others.call("job", "acquire", &json!({})).await;
    assert_eq!(answer.problem(), (404, "not-found".to_owned()));
    assert_eq!(app.db.value::<i64>("SELECT count(*) FROM locks").await, 3);
}

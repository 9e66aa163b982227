//! Many leases at once.

use serde_json::{Value, json};

use super::kit::*;

fn entry(namespace: &str, name: &str, lease: &Value) -> Value {
    json!({"namespace": namespace, "name": name, "lease_id": lease["lease_id"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_leases_is_renewed_and_released_by_itself() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let one = locks.lease("one", &json!({"holder": "h"})).await;
    let some = locks.lease("some", &json!({"limit": 2})).await;
    let mut leases = vec![
        entry("jobs", "one", &one),
        entry("jobs", "never", &json!({"lease_id": new_id()})),
        entry("jobs", "some", &some),
        entry("nobodys", "one", &one),
    ];
    leases[2]["lease_ms"] = json!(90_000);
    let body = json!({"leases": leases});
    let answer = locks.post("/v2/heartbeats", &body).await.json();
    assert_eq!(
        (&answer["renewed"], &answer["failed"]),
        (&json!(2), &json!(2))
    );
    let results = &answer["results"];
    assert_eq!(
        (&results[0]["name"], &results[0]["holder"]),
        (&json!("one"), &json!("h"))
    );
    assert_eq!(results[2]["expires_in_ms"], 90_000);
    let lost = json!({"code": "lease-lost", "reason": "unknown"});
    assert_eq!((&results[1], &results[3]), (&lost, &lost));
    for lease in body["leases"].as_array().unwrap() {
        assert_eq!(lease.get("lease_ms").is_some(), lease["name"] == "some");
    }
    let mut body = body;
    body["leases"][2]
        .as_object_mut()
        .unwrap()
        .remove("lease_ms");
    for _ in 0..2 {
        let answer = locks.post("/v2/releases", &body).await.json();
        assert_eq!(
            (&answer["released"], &answer["failed"]),
            (&json!(2), &json!(2))
        );
        let done = json!({"released": true});
        assert_eq!(
            (&answer["results"][0], &answer["results"][2]),
            (&done, &done)
        );
    }
    assert_eq!(locks.lock("some").await["state"], "free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_leases_are_a_request_and_no_more() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let lease_id = new_id();
    let names: Vec<String> = (0..1000).map(|n| format!("lock-{n}")).collect();
    for names in names.chunks(50) {
        let asked = json!({"names": names, "lease_id": lease_id});
        let answer = locks.post(&locks.path("acquire-all"), &asked).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let leases: Vec<Value> = names
        .iter()
        .map(|name| entry("jobs", name, &json!({"lease_id": lease_id})))
        .collect();
    let answer = locks
        .post("/v2/heartbeats", &json!({"leases": leases}))
        .await;
    let results = answer.json();
    assert_eq!(
        (&results["renewed"], &results["failed"]),
        (&json!(1000), &json!(0))
    );
    for (name, result) in names.iter().zip(results["results"].as_array().unwrap()) {
        assert_eq!(result["name"], **name);
    }
    let mut too_many = leases;
    too_many.push(entry("jobs", "more", &json!({"lease_id": lease_id})));
    let answer = locks
        .post("/v2/heartbeats", &json!({"leases": too_many}))
        .await;
    let (status, code, document) = refused(&answer);
    assert_eq!((status, &*code), (400, "invalid-body"));
    assert_eq!(document["pointer"], "/leases");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_locks_are_taken_or_none() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let all = async |body: &Value| locks.post(&locks.path("acquire-all"), body).await;
    let held = locks.lease("b", &json!({})).await;
    let asked = json!({
        "names": ["c", "a", "b"], "lease_id": new_id(), "holder": "h", "metadata": {"n": 1},
    });
    let (status, code, document) = refused(&all(&asked).await);
    assert_eq!(
        (status, &*code, &document["held"]),
        (409, "lock-held", &json!(["b"]))
    );
    // Nothing was taken, and nothing is left of the rows of locks that were never taken.
    let rows: i64 = app.db.value("SELECT count(*) FROM locks").await;
    assert_eq!(rows, 1);
    locks.call("b", "release", &id(&held["lease_id"])).await;
    let granted = all(&asked).await.json();
    let leases = granted["leases"].as_array().unwrap();
    let names: Vec<&Value> = leases.iter().map(|lease| &lease["name"]).collect();
    assert_eq!(names, ["c", "a", "b"]);
    for lease in leases {
        assert_eq!(
            (&lease["holder"], &lease["metadata"]),
            (&json!("h"), &json!({"n": 1}))
        );
        assert_eq!(lease["lease_id"], asked["lease_id"]);
    }
    let again = all(&asked).await.json();
    for (one, other) in leases.iter().zip(again["leases"].as_array().unwrap()) {
        assert_eq!(one["fencing_token"], other["fencing_token"]);
        assert!(one["expires_at"].as_str() <= other["expires_at"].as_str());
    }
    // Where one of them has ended, none is renewed.
    locks.call("a", "release", &id(&asked["lease_id"])).await;
    let (status, code, _) = refused(&all(&asked).await);
    assert_eq!((status, &*code), (409, "lease-id-used"));
    assert_eq!(locks.lock("a").await["state"], "free");
}

/// The plan's limit counts each of the locks.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_locks_are_taken_at_once_than_the_plan_allows() {
    let app = TestApp::start().await;
    let max = 20;
    app.db
        .execute("UPDATE plans SET max_live_locks = 20 WHERE code = 'hobbyist'")
        .await;
    let locks = Locks::public(&app, "hobbyist").await;
    let names = |count: i32| -> Vec<String> { (0..count).map(|n| format!("n{n}")).collect() };
    let all = async |names: Vec<String>| {
        let asked = json!({"names": names, "lease_id": new_id()});
        locks
            .post("/v2/namespaces/public/acquire-all", &asked)
            .await
    };
    let (status, code, _) = refused(&all(names(max + 1)).await);
    assert_eq!((status, &*code), (403, "live-locks-limit"));
    assert_eq!(app.db.value::<i64>("SELECT count(*) FROM locks").await, 0);
    assert_eq!(all(names(max)).await.status, 200);
}

//! Each call sent twice, on this node or another, while the first still runs or after it was
//! answered: it has its effect once (P6).

use serde_json::{Value, json};

use super::kit::*;

async fn two_nodes() -> (TestApp, TestApp, Locks, Locks) {
    let app = TestApp::start().await;
    let other = app.another_node().await;
    let token = app.account("business").await.private("jobs").await;
    let (here, there) = (
        Locks::new(&app, &token, "jobs"),
        Locks::new(&other, &token, "jobs"),
    );
    (app, other, here, there)
}

fn same(one: &Value, other: &Value) -> bool {
    [
        "lease_id",
        "fencing_token",
        "acquired_at",
        "holder",
        "metadata",
        "slot",
        "mode",
    ]
    .iter()
    .all(|field| one[field] == other[field])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_acquire_is_the_same_lease_as_it_was_granted() {
    let (_app, _other, here, there) = two_nodes().await;
    for (name, kind) in [
        ("one", json!({})),
        ("some", json!({"limit": 2})),
        ("all", json!({"mode": "shared"})),
    ] {
        let lease_id = new_id();
        let mut asked = kind.clone();
        asked["lease_id"] = lease_id.clone();
        asked["holder"] = json!("first");
        asked["metadata"] = json!({"n": 1});
        let first = here.lease(name, &asked).await;
        asked["holder"] = json!("second");
        asked["metadata"] = json!({"n": 2});
        asked["lease_ms"] = json!(30_000);
        for locks in [&here, &there] {
            let again = locks.lease(name, &asked).await;
            assert!(same(&first, &again), "{first} {again}");
            assert_eq!(again["holder"], "first");
            // It renews by its own length, and shortens nothing.
            assert!(again["expires_at"].as_str() >= first["expires_at"].as_str());
        }
        for locks in [&there, &here, &there] {
            let answer = locks.call(name, "release", &id(&lease_id)).await;
            assert_eq!(answer.json(), json!({"released": true}), "{name}");
        }
        let (status, code, _) = refused(&here.call(name, "acquire", &asked).await);
        assert_eq!((status, &*code), (409, "lease-id-used"), "{name}");
        let lost = refused(&there.call(name, "heartbeat", &id(&lease_id)).await);
        assert_eq!(
            (&*lost.1, &lost.2["reason"]),
            ("lease-lost", &json!("released"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_wait_takes_the_place_of_the_first_on_any_node() {
    let (_app, _other, here, there) = two_nodes().await;
    let held = here.lease("job", &json!({})).await;
    let asked = json!({"lease_id": new_id(), "wait_ms": 60_000});
    let waiting = |locks: &Locks, asked: &Value| {
        let (locks, asked) = (locks.clone(), asked.clone());
        tokio::spawn(async move { locks.call("job", "acquire", &asked).await })
    };
    let first = waiting(&here, &asked);
    eventually("it waits", async || {
        (here.lock("job").await["queue_length"] == 1).then_some(())
    })
    .await;
    let behind = waiting(&here, &json!({"wait_ms": 60_000}));
    eventually("another waits behind it", async || {
        (here.lock("job").await["queue_length"] == 2).then_some(())
    })
    .await;
    let second = waiting(&there, &asked);
    let replaced = first.await.unwrap();
    assert_eq!(replaced.problem(), (503, "timed-out".to_owned()));
    here.call("job", "release", &id(&held["lease_id"])).await;
    let granted = second.await.unwrap().json();
    assert_eq!(granted["lease_id"], asked["lease_id"]);
    there
        .call("job", "release", &id(&granted["lease_id"]))
        .await;
    let last = behind.await.unwrap().json();
    assert!(last["fencing_token"].as_i64() > granted["fencing_token"].as_i64());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_may_hold_several_locks() {
    let (_app, _other, here, there) = two_nodes().await;
    let asked = json!({"lease_id": new_id()});
    let (one, two) = (
        here.lease("one", &asked).await,
        there.lease("two", &asked).await,
    );
    assert_eq!(one["lease_id"], two["lease_id"]);
    here.call("one", "release", &asked).await;
    assert_eq!(there.call("two", "heartbeat", &asked).await.status, 200);
}

//! Permits and shared leases.

use serde_json::{Value, json};

use super::kit::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_semaphore_gives_out_its_permits_and_no_more() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let asked = json!({"limit": 3, "holder": "h"});
    let mut leases = Vec::new();
    for slot in 0..3 {
        let lease = locks.lease("pool", &asked).await;
        assert_eq!((&lease["slot"], &lease["limit"]), (&json!(slot), &json!(3)));
        assert_eq!(
            (&lease["mode"], &lease["holder"]),
            (&json!("semaphore"), &json!("h"))
        );
        leases.push(lease);
    }
    let (_, code, document) = refused(&locks.call("pool", "acquire", &asked).await);
    assert_eq!(code, "lock-held");
    assert_eq!(document["leases"].as_array().unwrap().len(), 3);
    let renewed = locks
        .call("pool", "heartbeat", &id(&leases[1]["lease_id"]))
        .await;
    let renewed = renewed.json();
    assert_eq!(
        (&renewed["slot"], &renewed["holder"]),
        (&json!(1), &json!("h"))
    );
    locks
        .call("pool", "release", &id(&leases[1]["lease_id"]))
        .await;
    // The smallest slot that is free.
    assert_eq!(locks.lease("pool", &asked).await["slot"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_names_what_is_in_force() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let conflict = async |name: &str, asked: Value| {
        let (status, code, document) = refused(&locks.call(name, "acquire", &asked).await);
        assert_eq!((status, &*code), (409, "limit-conflict"));
        (document["mode"].clone(), document["limit"].clone())
    };
    locks.lease("pool", &json!({"limit": 3})).await;
    let in_force = (json!("semaphore"), json!(3));
    for asked in [json!({}), json!({"mode": "shared"}), json!({"limit": 2})] {
        assert_eq!(conflict("pool", asked).await, in_force);
    }
    locks.lease("one", &json!({})).await;
    let in_force = (json!("exclusive"), Value::Null);
    assert_eq!(conflict("one", json!({"limit": 2})).await, in_force);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_share_and_a_writer_waits_for_them() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let shared = json!({"mode": "shared"});
    let readers = [
        locks.lease("table", &shared).await,
        locks.lease("table", &shared).await,
    ];
    assert_eq!(
        (&readers[0]["mode"], &readers[0]["slot"]),
        (&json!("shared"), &Value::Null)
    );
    let writing = locks.clone();
    let writer = tokio::spawn(async move {
        writing
            .lease("table", &json!({"mode": "exclusive", "wait_ms": 60_000}))
            .await
    });
    eventually("the writer waits", async || {
        (locks.lock("table").await["queue_length"] == 1).then_some(())
    })
    .await;
    // No reader overtakes it.
    let (_, code, _) = refused(&locks.call("table", "acquire", &shared).await);
    assert_eq!(code, "lock-held");
    for reader in &readers {
        locks
            .call("table", "release", &id(&reader["lease_id"]))
            .await;
    }
    let lease = writer.await.unwrap();
    assert_eq!(lease["mode"], "exclusive");
    for reader in &readers {
        assert!(lease["fencing_token"].as_i64() > reader["fencing_token"].as_i64());
    }
}

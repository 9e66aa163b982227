//! Outcomes that are lost: between the database and the engine, and between the engine and its
//! caller.

use std::time::Duration;

use lockable::locks::{
    AcquireOutcome, EngineError, EngineSettings, HeartbeatOutcome, Lost, ReleaseOutcome,
};
use uuid::Uuid;

use crate::support::node::{Node, acquire, heartbeat, release};
use crate::support::prelude::*;
use crate::support::proxy::Flow;

async fn node_behind_a_proxy() -> (Database, Proxy, Node) {
    let db = Database::create().await;
    let proxy = Proxy::to(&db).await;
    let node = Node::start_with(
        proxy.options(&db),
        EngineSettings {
            deadline: Duration::from_secs(30),
            ..EngineSettings::default()
        },
    )
    .await;
    // Connections are there, and the statements prepared.
    node.engine.acquire(acquire(1, "warm", None)).await.unwrap();
    node.engine
        .heartbeat(heartbeat(1, "warm", None))
        .await
        .unwrap();
    node.engine.release(release(1, "warm", None)).await.unwrap();
    (db, proxy, node)
}

/// Waits until the statement in flight has been committed: until this query has a row.
async fn committed(db: &Database, query: &str) {
    eventually(query, async || {
        db.value::<bool>(&format!("SELECT EXISTS ({query})"))
            .await
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_whose_result_is_lost_is_retried_and_granted_once() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    proxy.answers(Flow::Drop);
    let pending = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "lost", None)).await }
    });
    committed(&db, "SELECT FROM locks WHERE name = 'lost'").await;
    let token: i64 = db
        .value("SELECT fencing_token FROM locks WHERE name = 'lost'")
        .await;
    proxy.cut();
    proxy.mend();
    let Ok(AcquireOutcome::Granted(lease)) = pending.await.unwrap() else {
        panic!("not granted")
    };
    assert_eq!(lease.fencing_token, token, "the same grant");
    assert_eq!(
        node.engine.acquire(acquire(2, "lost", None)).await,
        Ok(AcquireOutcome::Held)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_and_a_release_with_an_id_survive_a_lost_result() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    let id = Uuid::new_v4();
    node.engine
        .acquire(acquire(1, "kept", Some(id)))
        .await
        .unwrap();

    proxy.answers(Flow::Drop);
    let pending = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.release(release(1, "kept", Some(id))).await }
    });
    committed(
        &db,
        "SELECT FROM locks WHERE name = 'kept' AND end_reason = 1",
    )
    .await;
    proxy.cut();
    proxy.mend();
    assert_eq!(pending.await.unwrap(), Ok(ReleaseOutcome::Released));
    assert_eq!(
        node.engine.heartbeat(heartbeat(1, "kept", Some(id))).await,
        Ok(HeartbeatOutcome::Lost(Lost::Released))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_an_id_whose_result_is_lost_is_unknown() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    node.engine
        .acquire(acquire(1, "plain", None))
        .await
        .unwrap();
    proxy.answers(Flow::Drop);
    let pending = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.release(release(1, "plain", None)).await }
    });
    committed(
        &db,
        "SELECT FROM locks WHERE name = 'plain' AND end_reason = 1",
    )
    .await;
    proxy.cut();
    proxy.mend();
    assert_eq!(
        pending.await.unwrap(),
        Err(EngineError::Unknown),
        "true and false would both be guesses"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_nobody_received_is_released() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    proxy.answers(Flow::Freeze);
    let pending = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "abandoned", None)).await }
    });
    committed(
        &db,
        "SELECT FROM locks WHERE name = 'abandoned' AND end_reason = 0",
    )
    .await;
    pending.abort();
    assert!(pending.await.unwrap_err().is_cancelled());
    proxy.mend();
    committed(
        &db,
        "SELECT FROM locks WHERE name = 'abandoned' AND end_reason = 1",
    )
    .await;
    assert!(matches!(
        node.engine.acquire(acquire(2, "abandoned", None)).await,
        Ok(AcquireOutcome::Granted(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_with_an_id_that_nobody_received_waits_for_the_repetition() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    let id = Uuid::new_v4();
    proxy.answers(Flow::Freeze);
    let pending = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "repeated", Some(id))).await }
    });
    committed(&db, "SELECT FROM locks WHERE name = 'repeated'").await;
    let token: i64 = db
        .value("SELECT fencing_token FROM locks WHERE name = 'repeated'")
        .await;
    pending.abort();
    assert!(pending.await.unwrap_err().is_cancelled());
    proxy.mend();
    assert_eq!(
        node.engine.acquire(acquire(2, "repeated", None)).await,
        Ok(AcquireOutcome::Held)
    );
    let Ok(AcquireOutcome::Granted(lease)) =
        node.engine.acquire(acquire(1, "repeated", Some(id))).await
    else {
        panic!()
    };
    assert_eq!(lease.fencing_token, token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_abandoned_before_it_is_sent_does_nothing() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    proxy.answers(Flow::Freeze);
    let first = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "first", None)).await }
    });
    committed(&db, "SELECT FROM locks WHERE name = 'first'").await;
    let second = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "second", None)).await }
    });
    eventually("it waits", async || {
        (node.engine.depth() == 1).then_some(())
    })
    .await;
    second.abort();
    assert!(second.await.unwrap_err().is_cancelled());
    proxy.mend();
    first.await.unwrap().unwrap();
    // This one was behind it in the same queue.
    node.engine
        .acquire(acquire(1, "third", None))
        .await
        .unwrap();
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM locks WHERE name = 'second'")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_does_not_arrive_in_time_is_unknown() {
    let db = Database::create().await;
    let proxy = Proxy::to(&db).await;
    let node = Node::start_with(
        proxy.options(&db),
        EngineSettings {
            deadline: Duration::from_millis(300),
            ..EngineSettings::default()
        },
    )
    .await;
    proxy.sever();
    assert_eq!(
        node.engine.acquire(acquire(1, "a", None)).await,
        Err(EngineError::Unknown)
    );
    proxy.mend();
    eventually("the database is back", async || {
        node.engine.acquire(acquire(1, "b", None)).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contended_lock_holds_up_no_other_request_of_its_batch() {
    let db = Database::create().await;
    let node = Node::start_with(
        db.options(),
        EngineSettings {
            deadline: Duration::from_secs(20),
            ..EngineSettings::default()
        },
    )
    .await;
    for name in ["contended", "other"] {
        node.engine.acquire(acquire(1, name, None)).await.unwrap();
        node.engine.release(release(1, name, None)).await.unwrap();
    }
    let mut blocker = db.connect().await;
    let mut transaction = sqlx::Connection::begin(&mut blocker).await.unwrap();
    sqlx::query("SELECT FROM locks WHERE name = 'contended' FOR UPDATE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let contended = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "contended", None)).await }
    });
    // Each of these is answered while that one waits, whichever batches they are in.
    for n in 0..20 {
        let outcome = node.engine.acquire(acquire(n, "other", None)).await;
        assert!(outcome.is_ok(), "{outcome:?}");
        node.engine
            .release(release(n, "other", None))
            .await
            .unwrap();
    }
    assert!(!contended.is_finished());
    transaction.rollback().await.unwrap();
    assert!(matches!(
        contended.await.unwrap(),
        Ok(AcquireOutcome::Granted(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_does_not_wait_for_the_batch_that_is_sent_before_its_delivery() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    let connections = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'lockable locks'";
    let before: Vec<i32> = db.value(connections).await;
    proxy.answers(Flow::Freeze);
    let send = |name| {
        let engine = node.engine.clone();
        tokio::spawn(async move { engine.acquire(acquire(1, name, None)).await })
    };
    let first = send("first");
    committed(&db, "SELECT FROM locks WHERE name = 'first'").await;
    let second = send("second");
    eventually("it waits", async || {
        (node.engine.depth() == 1).then_some(())
    })
    .await;
    // The second is sent when the first one's result arrives, and is then in flight until requests
    // pass again.
    proxy.requests(Flow::Freeze);
    proxy.answers(Flow::Pass);
    assert!(matches!(
        first.await.unwrap(),
        Ok(AcquireOutcome::Granted(_))
    ));
    assert!(!second.is_finished());
    proxy.mend();
    assert!(matches!(
        second.await.unwrap(),
        Ok(AcquireOutcome::Granted(_))
    ));
    let after: Vec<i32> = db.value(connections).await;
    assert_eq!(
        before, after,
        "the second was given up and retried: the first had waited for it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_not_retried_at_once_however_many_requests_wait() {
    let db = Database::create().await;
    let proxy = Proxy::to(&db).await;
    // Each request is a batch of its own: there is always a next one.
    let settings = EngineSettings {
        deadline: Duration::from_secs(2),
        largest_batch: 1,
        ..EngineSettings::default()
    };
    let node = Node::start_with(proxy.options(&db), settings).await;
    eventually("it is warm", async || {
        node.engine.acquire(acquire(1, "warm", None)).await.ok()
    })
    .await;
    proxy.sever();
    let names: Vec<_> = (0..200).map(|n| format!("lock-{n}")).collect();
    let pending = names
        .iter()
        .map(|name| node.engine.acquire(acquire(1, name, None)));
    for outcome in futures_util::future::join_all(pending).await {
        assert_eq!(outcome, Err(EngineError::Unknown));
    }
    // Pauses of 10 ms at least, that double up to half a second: some ten in the deadline. The tick
    // tries to connect, too.
    let refused = proxy.refused();
    assert!(
        refused > 0 && refused < 60,
        "{refused} connections in two seconds"
    );
    // The lane sends its compensating releases before it ends.
    proxy.mend();
    node.engine.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_in_doubt_is_released_when_the_database_returns_too_late() {
    let db = Database::create().await;
    let proxy = Proxy::to(&db).await;
    let settings = EngineSettings {
        deadline: Duration::from_secs(1),
        ..EngineSettings::default()
    };
    let node = Node::start_with(proxy.options(&db), settings).await;
    eventually("it is warm", async || {
        node.engine.acquire(acquire(1, "warm", None)).await.ok()
    })
    .await;
    proxy.answers(Flow::Drop);
    let pending = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "in doubt", None)).await }
    });
    committed(
        &db,
        "SELECT FROM locks WHERE name = 'in doubt' AND end_reason = 0",
    )
    .await;
    proxy.sever();
    assert_eq!(pending.await.unwrap(), Err(EngineError::Unknown));
    proxy.mend();
    committed(
        &db,
        "SELECT FROM locks WHERE name = 'in doubt' AND end_reason = 1",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_acquire_whose_lost_grant_has_lapsed_is_retried_and_not_refused() {
    let (db, proxy, node) = node_behind_a_proxy().await;
    proxy.answers(Flow::Drop);
    let pending = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "lapsed", None)).await }
    });
    committed(&db, "SELECT FROM locks WHERE name = 'lapsed'").await;
    let token: i64 = db
        .value("SELECT fencing_token FROM locks WHERE name = 'lapsed'")
        .await;
    db.execute("UPDATE locks SET expires_at = '2000-01-01' WHERE name = 'lapsed'")
        .await;
    proxy.cut();
    proxy.mend();
    let Ok(AcquireOutcome::Granted(lease)) = pending.await.unwrap() else {
        panic!("the lock was free")
    };
    assert!(lease.fencing_token > token);
}

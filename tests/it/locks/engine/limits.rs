//! Bounds: queues that are full, accounts that are greedy, accounts at their limit, an engine that
//! stops.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockable::id::AccountId;
use lockable::locks::{AcquireOutcome, EngineError, EngineSettings, HeartbeatOutcome};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::support::node::{Node, acquire, heartbeat, release};
use crate::support::prelude::*;
use crate::support::proxy::Flow;

/// A node that receives nothing from its database, so that requests stay in its queue.
async fn stuck_node(capacity: usize) -> (Database, Proxy, Node) {
    let db = Database::create().await;
    let proxy = Proxy::to(&db).await;
    let settings = EngineSettings {
        queue_capacity: capacity,
        largest_batch: 1,
        ..EngineSettings::default()
    };
    let node = Node::start_with(proxy.options(&db), settings).await;
    // Connections are there, and the statements prepared.
    node.engine.acquire(acquire(1, "warm", None)).await.unwrap();
    proxy.answers(Flow::Freeze);
    (db, proxy, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_rejects_at_once_and_answers_what_it_accepted() {
    let (db, proxy, node) = stuck_node(8).await;
    // One is in flight, eight of eight accounts wait.
    let in_flight = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "in flight", None)).await }
    });
    eventually("it is in flight", async || {
        (db.value::<i64>("SELECT count(*) FROM locks").await == 2).then_some(())
    })
    .await;
    let waiting: Vec<_> = (0..8)
        .map(|account| {
            let engine = node.engine.clone();
            tokio::spawn(async move {
                engine
                    .acquire(acquire(account, &format!("waits {account}"), None))
                    .await
            })
        })
        .collect();
    eventually("eight wait", async || {
        (node.engine.depth() == 8).then_some(())
    })
    .await;
    assert_eq!(node.engine.check_room(), Err(EngineError::Overloaded));
    assert_eq!(
        node.engine.acquire(acquire(99, "too many", None)).await,
        Err(EngineError::Overloaded)
    );
    proxy.mend();
    assert!(matches!(
        in_flight.await.unwrap(),
        Ok(AcquireOutcome::Granted(_))
    ));
    for outcome in join_all(waiting).await {
        assert!(matches!(outcome.unwrap(), Ok(AcquireOutcome::Granted(_))));
    }
    assert_eq!(node.engine.check_room(), Ok(()));
}

/// The number of locks, queried on a thread of its own.
fn locks(options: &PgConnectOptions) -> i64 {
    let options = options.clone();
    let query = async move {
        let mut connection = PgConnection::connect_with(&options).await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM locks")
            .fetch_one(&mut connection)
            .await
            .unwrap()
    };
    std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(query)
    })
    .join()
    .unwrap()
}

#[tokio::test]
async fn a_crowded_lane_works_while_the_runtime_has_no_turn_for_it() {
    let db = Database::create().await;
    let settings = EngineSettings {
        largest_batch: 4,
        ..EngineSettings::default()
    };
    let node = Node::start_with(db.options(), settings).await;
    node.engine.acquire(acquire(1, "warm", None)).await.unwrap();
    let pending: Vec<_> = (0..100)
        .map(|n| {
            let engine = node.engine.clone();
            tokio::spawn(
                async move { engine.acquire(acquire(n, &format!("lock {n}"), None)).await },
            )
        })
        .collect();
    eventually("a first batch is sent", async || {
        (50..100).contains(&node.engine.depth()).then_some(())
    })
    .await;
    // From here on nothing else runs on this test's runtime.
    let deadline = Instant::now() + Duration::from_secs(30);
    while locks(&db.options()) < 101 {
        assert!(
            Instant::now() < deadline,
            "the lane waits for its turn: {} of 101 locks",
            locks(&db.options())
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    for outcome in join_all(pending).await {
        assert!(matches!(outcome.unwrap(), Ok(AcquireOutcome::Granted(_))));
    }
    // And the lane returns to the runtime.
    assert!(matches!(
        node.engine.acquire(acquire(1, "later", None)).await,
        Ok(AcquireOutcome::Granted(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_account_fills_more_than_a_quarter_of_a_queue() {
    let (_db, proxy, node) = stuck_node(8).await;
    let in_flight = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(1, "in flight", None)).await }
    });
    let greedy: Vec<_> = (0..20)
        .map(|n| {
            let engine = node.engine.clone();
            tokio::spawn(async move {
                engine
                    .acquire(acquire(7, &format!("greedy {n}"), None))
                    .await
            })
        })
        .collect();
    let modest = tokio::spawn({
        let engine = node.engine.clone();
        async move { engine.acquire(acquire(8, "modest", None)).await }
    });
    eventually("the greedy account's share is full", async || {
        (node.engine.depth() >= 3).then_some(())
    })
    .await;
    proxy.mend();
    assert!(matches!(
        modest.await.unwrap(),
        Ok(AcquireOutcome::Granted(_))
    ));
    in_flight.await.unwrap().unwrap();
    let rejected = join_all(greedy)
        .await
        .into_iter()
        .filter(|outcome| *outcome.as_ref().unwrap() == Err(EngineError::Overloaded))
        .count();
    // Two wait, and one may be in flight.
    assert!(rejected >= 17, "{rejected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_stops_answers_what_it_accepted_and_rejects_the_rest() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let accepted: Vec<_> = (0..100)
        .map(|n| {
            let engine = node.engine.clone();
            tokio::spawn(
                async move { engine.acquire(acquire(n, &format!("lock {n}"), None)).await },
            )
        })
        .collect();
    eventually("some are answered", async || {
        (db.value::<i64>("SELECT count(*) FROM locks").await > 0).then_some(())
    })
    .await;
    node.engine.shut_down().await;
    let mut granted = 0;
    for outcome in join_all(accepted).await {
        match outcome.unwrap() {
            Ok(AcquireOutcome::Granted(_)) => granted += 1,
            Err(EngineError::ShuttingDown) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM locks").await, granted);
    assert_eq!(
        node.engine.acquire(acquire(1, "late", None)).await,
        Err(EngineError::ShuttingDown)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_at_its_limit_takes_no_new_lock_and_keeps_its_leases() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let limited = |name: &str, id: Option<Uuid>| lockable::locks::Acquire {
        max_live_locks: 3,
        ..acquire(5, name, id)
    };
    let id = Uuid::new_v4();
    let AcquireOutcome::Granted(first) =
        node.engine.acquire(limited("one", Some(id))).await.unwrap()
    else {
        panic!()
    };
    for name in ["two", "three"] {
        assert!(matches!(
            node.engine.acquire(limited(name, None)).await,
            Ok(AcquireOutcome::Granted(_))
        ));
    }
    node.engine.usage().count(&db.pool).await.unwrap();
    assert!(node.engine.usage().is_at_limit(AccountId(5), 3));
    let rejected = Err(EngineError::TooManyLocks { max: 3 });
    assert_eq!(node.engine.acquire(limited("four", None)).await, rejected);
    assert_eq!(
        node.engine
            .acquire(limited("four", Some(Uuid::new_v4())))
            .await,
        rejected
    );
    // A repeated request for a lease that it has renews it (P6).
    let AcquireOutcome::Granted(again) =
        node.engine.acquire(limited("one", Some(id))).await.unwrap()
    else {
        panic!()
    };
    assert_eq!(again.fencing_token, first.fencing_token);
    assert!(matches!(
        node.engine.heartbeat(heartbeat(5, "two", None)).await,
        Ok(HeartbeatOutcome::Renewed(_))
    ));
    // Another account is not concerned; and a release makes room.
    assert!(matches!(
        node.engine.acquire(acquire(6, "four", None)).await,
        Ok(AcquireOutcome::Granted(_))
    ));
    node.engine.release(release(5, "two", None)).await.unwrap();
    eventually("it is counted", async || {
        node.engine.usage().count(&db.pool).await.unwrap();
        (!node.engine.usage().is_at_limit(AccountId(5), 3)).then_some(())
    })
    .await;
    assert!(matches!(
        node.engine.acquire(limited("five", None)).await,
        Ok(AcquireOutcome::Granted(_))
    ));
}

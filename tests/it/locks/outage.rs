//! P10: an outage of the database takes no lock from a holder that comes back, and keeps a dead
//! one's lock at most the grace.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lockable::locks::{AcquireOutcome, HeartbeatOutcome};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use crate::support::node::Node;
use crate::support::prelude::*;

const LEASE_MS: i32 = 2000;
const GRACE_MS: i32 = 5000;

/// The ways in which the database goes away.
#[derive(Debug, Clone, Copy)]
enum Outage {
    Stopped,
    Crashed,
    Frozen,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_postgresql_takes_no_lock_from_its_holder() {
    survive(Outage::Stopped, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgresql_takes_no_lock_from_its_holder() {
    survive(Outage::Crashed, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_postgresql_takes_no_lock_from_its_holder() {
    survive(Outage::Frozen, None).await.unwrap();
}

/// The same, with a service that forgets outages: the test must notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_memory_of_outages_is_caught() {
    let forgetful = "
      CREATE OR REPLACE FUNCTION lease_is_live(
        expires_at timestamptz, end_reason smallint, lease_ms integer, recent_until timestamptz,
        open_start timestamptz, outage_start timestamptz, outage_end timestamptz, grace_ms integer)
      RETURNS boolean LANGUAGE sql VOLATILE AS
        'SELECT end_reason = 0 AND expires_at > clock_timestamp()'";
    let caught = survive(Outage::Stopped, Some(forgetful)).await.unwrap_err();
    assert!(
        caught.contains("somebody else got the lock") || caught.contains("lost its lock"),
        "{caught}"
    );
}

async fn survive(outage: Outage, mutation: Option<&str>) -> Result<(), String> {
    let cluster = Arc::new(tokio::task::block_in_place(Cluster::durable));
    let db = Database::create_in(&cluster).await;
    db.execute(&format!("UPDATE service_clock SET grace_ms = {GRACE_MS}"))
        .await;
    if let Some(sql) = mutation {
        db.execute(sql).await;
    }
    let nodes = [
        Arc::new(Node::start(db.options()).await),
        Arc::new(Node::start(db.options()).await),
    ];
    nodes[0].grant("lapsed before", Uuid::new_v4(), 1000).await;
    // A tick has to follow, so that the lease is known to have ended before the outage.
    let lapsed = "SELECT expires_at < last_ok_at FROM locks, service_clock";
    eventually("it lapses", async || {
        db.value::<bool>(lapsed).await.then_some(())
    })
    .await;
    nodes[0]
        .grant("of a dead holder", Uuid::new_v4(), LEASE_MS)
        .await;
    let lease_id = Uuid::new_v4();
    let lease = nodes[0].grant("held", lease_id, LEASE_MS).await;

    tokio::task::block_in_place(|| match outage {
        Outage::Stopped => cluster.stop(),
        Outage::Crashed => cluster.crash(),
        Outage::Frozen => cluster.pause(),
    });
    // All the while, others want the lock, from both nodes.
    let over = Arc::new(AtomicBool::new(false));
    let contenders: Vec<_> = nodes
        .iter()
        .cloned()
        .map(|node| {
            let over = over.clone();
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(AcquireOutcome::Granted(lease)) =
                        node.acquire("held", Uuid::new_v4(), LEASE_MS).await
                    {
                        return Some(lease);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                None
            })
        })
        .collect();
    // Longer than three seconds, which is what makes it an outage, and longer than the lease.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    tokio::task::block_in_place(|| match outage {
        Outage::Stopped | Outage::Crashed => cluster.start(),
        Outage::Frozen => cluster.resume(),
    });

    // The holder knows nothing of it, and renews as soon as it can, through either node.
    let outcome = eventually("the holder is answered", async || {
        nodes[1].heartbeat("held", lease_id).await.ok()
    })
    .await;
    let kept = match outcome {
        HeartbeatOutcome::Renewed(renewed) if renewed.fencing_token == lease.fencing_token => {
            Ok(())
        }
        other => Err(format!("the holder lost its lock: {other:?}")),
    };
    let ended = "SELECT outage_end FROM service_clock
                  WHERE outage_start > clock_timestamp() - interval '30 s'";
    let ended: Option<DateTime<Utc>> = if kept.is_ok() {
        Some(
            eventually("the outage is on record", async || {
                sqlx::query_scalar(ended)
                    .fetch_optional(&db.pool)
                    .await
                    .ok()
                    .flatten()
            })
            .await,
        )
    } else {
        None
    };
    // Another lease, that had lapsed before the outage, holds nobody up.
    if kept.is_ok() {
        eventually("the lock that had lapsed before is free", async || {
            matches!(
                nodes[0]
                    .acquire("lapsed before", Uuid::new_v4(), 1000)
                    .await,
                Ok(AcquireOutcome::Granted(_))
            )
            .then_some(())
        })
        .await;
    }
    over.store(true, Ordering::Relaxed);
    for contender in contenders {
        if let Some(other) = contender.await.unwrap() {
            return Err(format!(
                "somebody else got the lock: {other:?} after {lease:?}"
            ));
        }
    }
    kept?;

    // The dead holder's lock is protected for as long as a lease, and not a moment longer.
    let free_at = ended.unwrap() + chrono::TimeDelta::milliseconds(LEASE_MS.min(GRACE_MS).into());
    let lease = eventually("the dead holder's lock is free", async || {
        match nodes[1]
            .acquire("of a dead holder", Uuid::new_v4(), 1000)
            .await
        {
            Ok(AcquireOutcome::Granted(lease)) => Some(lease),
            _ => None,
        }
    })
    .await;
    if lease.acquired_at < free_at {
        return Err(format!(
            "the dead holder's lock was granted in the grace, which ends at {free_at}: {lease:?}"
        ));
    }
    Ok(())
}

/// Sets the record to so many seconds before now, ticks, and returns whether an outage ended, and
/// the record in seconds before now.
async fn tick(
    db: &Database,
    last_ok: f64,
    outage_start: f64,
    outage_end: f64,
    grace_ms: i32,
) -> (bool, [f64; 3]) {
    let mut connection = db.connect().await;
    let row = sqlx::query(AssertSqlSafe(format!(
        "WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now)
         UPDATE service_clock
            SET grace_ms = {grace_ms}, last_ok_at = t.now - {last_ok} * interval '1 s',
                outage_start = t.now - {outage_start} * interval '1 s',
                outage_end = t.now - {outage_end} * interval '1 s'
           FROM t RETURNING t.now"
    )))
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let now: DateTime<Utc> = row.get(0);
    let ended: bool = sqlx::query_scalar("SELECT tick_service_clock()")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let row = sqlx::query(
        "SELECT extract(epoch FROM $1 - last_ok_at)::float8,
                extract(epoch FROM $1 - outage_start)::float8,
                extract(epoch FROM $1 - outage_end)::float8 FROM service_clock",
    )
    .bind(now)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    // A tick "now" is a little after it: to the half second.
    (
        ended,
        [0, 1, 2].map(|at| (row.get::<f64, _>(at) * 2.0).round() / 2.0),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_records_outages_and_joins_those_that_overlap() {
    let db = Database::create().await;
    let none = (1000.0, 900.0);
    // The ordinary tick, and one that came late.
    assert_eq!(
        tick(&db, 1.0, none.0, none.1, 60_000).await,
        (false, [0.0, 1000.0, 900.0])
    );
    assert_eq!(
        tick(&db, 2.0, none.0, none.1, 60_000).await,
        (false, [0.0, 1000.0, 900.0])
    );
    // More than three seconds: an outage, from the last tick until now.
    assert_eq!(
        tick(&db, 4.0, none.0, none.1, 60_000).await,
        (true, [0.0, 4.0, 0.0])
    );
    // The grace of the outage before still ran when this one began. They are joined, because leases
    // from before the first are still protected.
    assert_eq!(
        tick(&db, 4.0, 40.0, 30.0, 60_000).await,
        (true, [0.0, 40.0, 0.0])
    );
    // That grace was over when this one began.
    assert_eq!(
        tick(&db, 4.0, 40.0, 30.0, 10_000).await,
        (true, [0.0, 4.0, 0.0])
    );
    // A clock that was set back takes the record back with it: nothing is forgotten, nothing is
    // invented, and nothing lies ahead.
    assert_eq!(
        tick(&db, -50.0, 1000.0, 900.0, 60_000).await,
        (false, [0.0, 1000.0, 900.0])
    );
    assert_eq!(
        tick(&db, -50.0, -10.0, -50.0, 60_000).await,
        (false, [0.0, 0.0, 0.0])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_definition_says_when_a_lease_lives() {
    let db = Database::create().await;
    // Everything in seconds before now; the lease lasts 20 s, the grace 60 s.
    let lives = async |expires: f64, end_reason: i32, last_ok: f64, outage: (f64, f64)| {
        db.value::<bool>(&format!(
            "WITH t AS MATERIALIZED (SELECT clock_timestamp() AS now),
             r AS (SELECT now, now - {last_ok} * interval '1 s' AS last_ok_at,
                          now - {0} * interval '1 s' AS outage_start,
                          now - {1} * interval '1 s' AS outage_end FROM t)
             SELECT lease_is_live(now - {expires} * interval '1 s', {end_reason}::smallint, 20000,
                      last_ok_at + interval '2.5 s',
                      CASE WHEN outage_end + interval '60 s' > last_ok_at
                           THEN outage_start ELSE last_ok_at END,
                      outage_start, outage_end, 60000) FROM r",
            outage.0, outage.1
        ))
        .await
    };
    let none = (1000.0, 900.0);
    assert!(lives(-5.0, 0, 1.0, none).await, "not over yet");
    assert!(!lives(-5.0, 1, 1.0, none).await, "released");
    assert!(!lives(-5.0, 2, 1.0, none).await, "broken");
    assert!(!lives(5.0, 0, 1.0, none).await, "lapsed");
    assert!(
        lives(5.0, 0, 10.0, none).await,
        "lapsed in an outage that still runs"
    );
    assert!(
        !lives(15.0, 0, 10.0, none).await,
        "lapsed before an outage that still runs"
    );
    assert!(
        lives(30.0, 0, 1.0, (40.0, 10.0)).await,
        "lapsed in an outage that ended just now"
    );
    assert!(
        lives(5.0, 0, 1.0, (40.0, 10.0)).await,
        "lapsed after it, within the time to come back"
    );
    assert!(!lives(50.0, 0, 1.0, (40.0, 10.0)).await, "lapsed before it");
    assert!(
        !lives(30.0, 0, 1.0, (80.0, 25.0)).await,
        "lapsed in one that ended longer ago than the lease"
    );
    assert!(
        lives(30.0, 0, 5.0, (40.0, 30.0)).await,
        "two outages of which the second still runs"
    );
    assert!(
        !lives(30.0, 1, 5.0, (40.0, 30.0)).await,
        "released stays released"
    );
}

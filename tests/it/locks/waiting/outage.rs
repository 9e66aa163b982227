//! P10 and P7 together: an outage takes no lock from a holder that comes back, and no place from a
//! waiter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::block_in_place;
use uuid::Uuid;

use super::crowd::{Client, Crowd, End, LEASE};
use crate::support::history::{Operation, Outcome, Request, Rules};
use crate::support::prelude::*;

const LOCKS: usize = 10;
const WAITERS: usize = 200;
const OUTAGE: Duration = Duration::from_secs(10);
/// Of the holders. It lapses in the outage, many times over.
const HOLDERS_LEASE: Duration = Duration::from_secs(3);

/// The ways in which the database goes away.
#[derive(Debug, Clone, Copy)]
enum Outage {
    Crashed,
    Frozen,
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_and_waiters_outlast_a_postgresql_that_is_down_for_ten_seconds() {
    survive(Outage::Crashed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_and_waiters_outlast_a_postgresql_that_is_frozen_for_ten_seconds() {
    survive(Outage::Frozen).await;
}

/// Renews a lease until it shall be released. Returns the fencing tokens that it was told of.
async fn keep(crowd: Arc<Crowd>, acquire: Request, is_over: Arc<AtomicBool>) -> Vec<i64> {
    let request = Request {
        operation: Operation::Heartbeat,
        ..acquire
    };
    let mut tokens = Vec::new();
    let mut ticks = tokio::time::interval(HOLDERS_LEASE / 6);
    while !is_over.load(Ordering::Relaxed) {
        ticks.tick().await;
        match crowd.send(tokens.len() % 2, &request).await {
            Outcome::Held { fencing_token } => tokens.push(fencing_token),
            Outcome::Unknown => {}
            other => panic!("the holder of {request:?} was answered {other:?}"),
        }
    }
    tokens
}

async fn survive(outage: Outage) {
    let cluster = Arc::new(block_in_place(Cluster::durable));
    let crowd = Crowd::start(Arc::new(Database::create_in(&cluster).await)).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let locks: Vec<String> = (0..LOCKS).map(|number| format!("line-{number}")).collect();
    let mut holders = Vec::new();
    for lock in &locks {
        let acquire = Request {
            length: Some(HOLDERS_LEASE),
            ..Request::with_id(lock, Uuid::new_v4(), Operation::Acquire)
        };
        assert!(matches!(
            crowd.send(0, &acquire).await,
            Outcome::Held { .. }
        ));
        let holder = keep(crowd.clone(), acquire.clone(), is_over.clone());
        holders.push((acquire, tokio::spawn(holder)));
    }
    let clients = (0..WAITERS).map(|number| Client {
        has_own_id: number % 3 > 0,
        ..Client::number(number, &locks[number / 2 % LOCKS])
    });
    let clients = crowd.gather(clients).await;
    let tickets = "SELECT array_agg(lease_id ORDER BY ticket) FROM lock_tickets
                    WHERE NOT is_detached";
    let before: Vec<Uuid> = crowd.db.value(tickets).await;

    block_in_place(|| match outage {
        Outage::Crashed => cluster.crash(),
        Outage::Frozen => cluster.pause(),
    });
    tokio::time::sleep(OUTAGE).await;
    block_in_place(|| match outage {
        Outage::Crashed => cluster.start(),
        Outage::Frozen => cluster.resume(),
    });
    let is_on_record = "SELECT outage_end > clock_timestamp() - interval '30 s' FROM service_clock";
    eventually("the outage is on record", async || {
        let is_on_record = sqlx::query_scalar(is_on_record).fetch_one(&crowd.db.pool);
        is_on_record.await.unwrap_or(false).then_some(())
    })
    .await;
    // Until every holder has renewed its lease, and the grace has passed for those who have not.
    tokio::time::sleep(HOLDERS_LEASE + Duration::from_millis(500)).await;
    let after: Vec<Uuid> = crowd.db.value(tickets).await;
    assert_eq!(before, after, "each waiter has its place");
    let unknown = |operation| {
        crowd
            .history
            .count(|call| call.request.operation == operation && call.outcome == Outcome::Unknown)
    };
    assert_eq!(unknown(Operation::Acquire), 0, "their requests went on");
    assert!(unknown(Operation::Heartbeat) >= LOCKS);

    is_over.store(true, Ordering::Relaxed);
    for (acquire, holder) in holders {
        let mut tokens = holder.await.unwrap();
        tokens.dedup();
        assert_eq!(tokens.len(), 1, "{tokens:?}");
        crowd.release(&acquire.lock, acquire.row_id()).await;
    }
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    let rules = Rules {
        late: Duration::from_secs(1),
        compensation: Duration::from_secs(5),
        // The outage, and the grace that it gives a lease.
        ..Rules::new(LEASE, OUTAGE + LEASE)
    };
    let register = crowd.assert_in_order(rules).await;
    for lock in &locks {
        crowd.assert_complete(&register, lock, WAITERS / LOCKS);
    }
}

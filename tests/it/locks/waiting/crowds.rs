//! Crowds that wait for one lock on two nodes are served in order, none lost and none twice,
//! whatever happens to nodes, database, notices, clients and holders.

use std::sync::Arc;
use std::time::Duration;

use super::crowd::{Client, Crowd, End, LEASE};
use crate::support::history::{Outcome, Rules};
use crate::support::prelude::*;

const LINE: &str = "line";

fn rules() -> Rules {
    Rules {
        late: Duration::from_secs(1),
        compensation: Duration::from_secs(5),
        ..Rules::new(LEASE, Duration::ZERO)
    }
}

async fn crowd() -> Arc<Crowd> {
    Crowd::start(Arc::new(Database::create().await)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_on_two_nodes_are_served_in_order() {
    let crowd = crowd().await;
    let first = crowd.hold(LINE).await;
    let clients = (0..1000).map(|number| Client {
        has_own_id: number % 3 > 0,
        ..Client::number(number, LINE)
    });
    let clients = crowd.gather(clients).await;
    crowd.release(LINE, first).await;
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    let register = crowd.assert_in_order(rules()).await;
    crowd.assert_complete(&register, LINE, 1000);
    let is_over = "SELECT NOT gated AND end_reason = 1 FROM locks";
    assert!(crowd.db.value::<bool>(is_over).await);
}

/// Clients of the dead node ask the other one, with the lease ids that they chose, and have their
/// places there.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_in_order_though_one_node_is_killed() {
    let crowd = crowd().await;
    let first = crowd.hold(LINE).await;
    let clients = (0..1000).map(|number| Client::number(number, LINE));
    let clients = crowd.gather(clients).await;
    crowd.release(LINE, first).await;
    crowd.served(100).await;
    crowd.nodes[1].kill();
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    let rules = Rules {
        // A claim of the dead node's lasts for three seconds.
        late: Duration::from_secs(4),
        ..rules()
    };
    let register = crowd.assert_in_order(rules).await;
    crowd.assert_complete(&register, LINE, 1000);
    let cut_off = crowd.history.count(|call| call.outcome == Outcome::Unheard);
    assert!(cut_off > 100, "{cut_off} clients lost their node");
}

/// The paused node leaves a claim to lapse; then those who wait on it are passed over, and have
/// their places again when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_in_order_though_one_node_is_paused_for_five_seconds() {
    let crowd = crowd().await;
    let first = crowd.hold(LINE).await;
    // The first in the line waits on the node that is paused.
    let mut clients = crowd.gather([Client::number(1, LINE)]).await;
    let others = (2..1001).map(|number| Client::number(number, LINE));
    clients.extend(crowd.gather(others).await);
    crowd.nodes[1].pause(Duration::from_secs(5)).await;
    crowd.release(LINE, first).await;
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    let register = crowd.assert_in_order(rules()).await;
    crowd.assert_complete(&register, LINE, 1000);
    assert!(register.deaths() > 0, "it left a claim to lapse");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_in_order_though_postgresql_is_killed() {
    let cluster = Arc::new(tokio::task::block_in_place(Cluster::durable));
    let crowd = Crowd::start(Arc::new(Database::create_in(&cluster).await)).await;
    let first = crowd.hold(LINE).await;
    let clients = (0..1000).map(|number| Client::number(number, LINE));
    let clients = crowd.gather(clients).await;
    crowd.release(LINE, first).await;
    for served in [200, 600] {
        crowd.served(served).await;
        tokio::task::block_in_place(|| {
            cluster.crash();
            cluster.start();
        });
    }
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    let register = crowd.assert_in_order(rules()).await;
    crowd.assert_complete(&register, LINE, 1000);
}

/// Every notice is lost: nodes find the grants of their waiters when they look. A small crowd for
/// each of several locks, since each hand-over between nodes takes half a second.
#[tokio::test(flavor = "multi_thread")]
async fn crowds_are_served_in_order_though_all_notices_are_lost() {
    let db = Database::create().await;
    db.execute(&format!(
        "CREATE TABLE lost_notices ();
         CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS
           'INSERT INTO lost_notices DEFAULT VALUES';
         ALTER DATABASE {} SET search_path = public, pg_catalog",
        db.name
    ))
    .await;
    let crowd = Crowd::start(Arc::new(db)).await;
    let locks: Vec<String> = (0..16).map(|number| format!("line-{number}")).collect();
    let mut first = Vec::new();
    for lock in &locks {
        first.push(crowd.hold(lock).await);
    }
    let clients = locks
        .iter()
        .flat_map(|lock| (0..12).map(|number| Client::number(number, lock)));
    let clients = crowd.gather(clients).await;
    for (lock, id) in locks.iter().zip(first) {
        crowd.release(lock, id).await;
    }
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    let register = crowd.assert_in_order(rules()).await;
    for lock in &locks {
        crowd.assert_complete(&register, lock, 12);
    }
    let lost = crowd.db.value::<i64>("SELECT count(*) FROM lost_notices");
    assert!(lost.await > 0);
}

/// From before the ticket is drawn until after the lock was granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_in_order_though_clients_hang_up_at_every_point_of_the_wait() {
    let crowd = crowd().await;
    let first = crowd.hold(LINE).await;
    let clients = (0..1000).map(|number| Client {
        has_own_id: number % 3 > 0,
        ..Client::number(number, LINE)
    });
    let clients = crowd.gather(clients).await;
    let (mut served, mut hung_up) = (0, 0);
    let mut leavers = Vec::new();
    crowd.release(LINE, first).await;
    for number in 0..600_u64 {
        // Behind the others, so that some of them get their turn.
        let hangs_up_after = Duration::from_micros(rand::random_range(0..5_000_000));
        leavers.push(tokio::spawn(crowd.clone().client(Client {
            has_own_id: number % 3 > 0,
            hangs_up_after: Some(hangs_up_after),
            ..Client::number(usize::try_from(number).unwrap(), LINE)
        })));
    }
    for end in crowd.ends(leavers).await {
        match end {
            End::Served => served += 1,
            End::HungUp => hung_up += 1,
        }
    }
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    crowd.assert_in_order(rules()).await;
    assert!(hung_up > 100, "{served} served, {hung_up} hung up");
}

/// One of a hundred takes the lock and is never heard of again: the others get it when its lease
/// has lapsed.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_is_served_in_order_though_holders_die() {
    let crowd = crowd().await;
    let first = crowd.hold(LINE).await;
    let clients = (0..1000).map(|number| Client {
        dies: number % 100 == 1,
        has_own_id: number % 3 > 0,
        ..Client::number(number, LINE)
    });
    let clients = crowd.gather(clients).await;
    crowd.release(LINE, first).await;
    let ends = crowd.ends(clients).await;
    assert!(ends.iter().all(|end| *end == End::Served));
    let register = crowd.assert_in_order(rules()).await;
    crowd.assert_complete(&register, LINE, 1000);
}

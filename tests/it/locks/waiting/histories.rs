//! Histories of clients that wait, share, and hold permits.

use std::time::Duration;

use lockable::locks::{EngineSettings, Mode};

use super::clients::{LEASE, run_during};
use crate::support::history::{Operation, Outcome, Register, Rules};
use crate::support::node::Node;
use crate::support::prelude::*;
use crate::support::proxy::Flow;

fn rules() -> Rules {
    Rules {
        late: Duration::from_secs(1),
        compensation: Duration::from_secs(1),
        ..Rules::new(LEASE, Duration::ZERO)
    }
}

async fn forget_outages(db: &Database) {
    db.execute("UPDATE service_clock SET outage_start = 'epoch', outage_end = 'epoch'")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_wait_share_and_hang_up_are_served_in_order() {
    let db = Database::create().await;
    Register::keep(&db).await;
    let nodes = [
        Node::start(db.options()).await,
        Node::start(db.options()).await,
    ];
    forget_outages(&db).await;
    let engines = nodes.iter().map(|node| node.engine.clone()).collect();
    let time = tokio::time::sleep(Duration::from_secs(6));
    let history = run_during(engines, 24, time).await;
    let register = Register::read(&db).await;
    history.assert_holds_in_order(&register, rules());
    let granted = |mode: fn(Mode) -> bool, waited: bool| {
        history.count(|call| {
            call.request.operation == Operation::Acquire
                && mode(call.request.mode)
                && call
                    .grant
                    .is_some_and(|grant| grant.waited.is_zero() != waited)
        })
    };
    let modes: [fn(Mode) -> bool; 3] = [
        |mode| mode == Mode::Exclusive,
        |mode| mode == Mode::Shared,
        |mode| matches!(mode, Mode::Semaphore { .. }),
    ];
    let counts = modes.map(|mode| (granted(mode, true), granted(mode, false)));
    for (waited, at_once) in counts {
        assert!(waited >= 5 && at_once >= 1, "{counts:?}");
    }
    let ended = |outcome| history.count(|call| call.outcome == outcome);
    for outcome in [Outcome::Refused, Outcome::Conflicting, Outcome::Unheard] {
        assert!(ended(outcome) >= 5, "{outcome:?}");
    }
}

/// The network of one node after the other loses its connections, holds what passes, or delays it:
/// for less than an outage, which would protect leases, and for longer than claims last.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_wait_are_served_in_order_while_networks_stall() {
    let db = Database::create().await;
    Register::keep(&db).await;
    let (mut networks, mut nodes) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let network = Proxy::to(&db).await;
        let settings = EngineSettings {
            deadline: Duration::from_millis(1200),
            ..EngineSettings::default()
        };
        nodes.push(Node::start_with(network.options(&db), settings).await);
        networks.push(network);
    }
    forget_outages(&db).await;
    let stalls = async {
        let moment = || tokio::time::sleep(Duration::from_millis(400));
        for network in &networks {
            network.cut();
            moment().await;
            network.answers(Flow::Freeze);
            moment().await;
            network.cut();
            network.mend();
            moment().await;
            network.requests(Flow::Delay(Duration::from_millis(150)));
            moment().await;
            network.requests(Flow::Freeze);
            network.answers(Flow::Freeze);
            tokio::time::sleep(Duration::from_millis(3500)).await;
            network.mend();
            moment().await;
        }
    };
    let engines = nodes.iter().map(|node| node.engine.clone()).collect();
    let history = run_during(engines, 24, stalls).await;
    let register = Register::read(&db).await;
    history.assert_holds_in_order(
        &register,
        Rules {
            // A node leaves and compensates when its network lets it.
            late: Duration::from_secs(5),
            compensation: Duration::from_secs(6),
            ..rules()
        },
    );
    let waited = history.count(|call| call.grant.is_some_and(|grant| !grant.waited.is_zero()));
    let unknown = history.count(|call| call.outcome == Outcome::Unknown);
    assert!(
        waited > 20 && unknown > 5,
        "{waited} waited, {unknown} unknown"
    );
}

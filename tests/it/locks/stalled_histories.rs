//! Histories of clients with and without lease ids, and with lengths of their own, while the
//! networks of two nodes hold what passes, in either direction, or lose it.
//!
//! Every outcome is the engine's own answer: one that says "unknown" is followed by no effect. What
//! happens to a whole node that is paused or killed is in `faults`.

use std::sync::Arc;
use std::time::Duration;

use lockable::locks::EngineSettings;

use super::workload::{Load, Subject, run_during};
use crate::support::history::{Outcome, Request, Rules};
use crate::support::node::Node;
use crate::support::prelude::*;
use crate::support::proxy::Flow;

const LOAD: Load = Load {
    clients: 24,
    locks: 4,
    nodes: 2,
    lease: Duration::from_millis(1500),
    pause: Duration::from_millis(20),
    heartbeats: 4,
    forgotten: 4,
    accounts: 2,
    without_id: 60,
    own_lengths: true,
    time: Duration::ZERO,
};
/// Shorter than the network holds a request.
const DEADLINE: Duration = Duration::from_millis(1200);
const HOLD: Duration = Duration::from_millis(1600);

struct Nodes(Vec<Node>);

impl Subject for Nodes {
    async fn perform(&self, node: usize, request: &Request, lease: Duration) -> Outcome {
        self.0[node].perform(request, lease).await
    }
}

/// The ways in which a network stalls.
#[derive(Debug, Clone, Copy)]
enum Stall {
    /// Requests arrive when their clients have been answered.
    Requests,
    /// Answers arrive when their clients have been answered.
    Answers,
    /// Nothing passes: as if the node, or PostgreSQL, were paused.
    Both,
    /// Everything takes a while.
    Delay,
    /// Requests on the old connections arrive late. The node has lost these, and has new ones that
    /// work.
    OldConnections,
    /// Answers are lost, and the connections with them.
    Lost,
}

const STALLS: [Stall; 6] = [
    Stall::Requests,
    Stall::Answers,
    Stall::Both,
    Stall::Delay,
    Stall::OldConnections,
    Stall::Lost,
];

impl Stall {
    async fn happen(self, network: &Proxy) {
        match self {
            Stall::Requests => network.requests(Flow::Freeze),
            Stall::Answers => network.answers(Flow::Freeze),
            Stall::Both => {
                network.requests(Flow::Freeze);
                network.answers(Flow::Freeze);
            }
            Stall::Delay => {
                network.requests(Flow::Delay(Duration::from_millis(150)));
                network.answers(Flow::Delay(Duration::from_millis(150)));
            }
            Stall::OldConnections => {
                for _ in 0..4 {
                    network.only_old();
                    network.requests(Flow::Freeze);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    network.hang_up();
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    network.mend();
                }
            }
            Stall::Lost => {
                network.answers(Flow::Drop);
                tokio::time::sleep(Duration::from_millis(200)).await;
                network.cut();
                network.mend();
            }
        }
        tokio::time::sleep(HOLD).await;
        network.mend();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_promises_hold_while_networks_stall() {
    let db = Database::create().await;
    let (mut networks, mut nodes) = (Vec::new(), Vec::new());
    for _ in 0..LOAD.nodes {
        let network = Proxy::to(&db).await;
        network.only("lockable locks");
        let settings = EngineSettings {
            deadline: DEADLINE,
            ..EngineSettings::default()
        };
        nodes.push(Node::start_with(network.options(&db), settings).await);
        networks.push(network);
    }
    // The first tick takes the time before the test for an outage.
    db.execute("UPDATE service_clock SET outage_start = 'epoch', outage_end = 'epoch'")
        .await;
    let stalls = async {
        for stall in STALLS {
            for network in &networks {
                stall.happen(network).await;
            }
        }
    };
    let history = run_during(Arc::new(Nodes(nodes)), LOAD, stalls).await;
    history.assert_holds(Rules {
        // A node sends a compensating release when its network lets it, within a stall.
        compensation: Duration::from_secs(6),
        ..Rules::new(LOAD.lease, Duration::ZERO)
    });
    let count = |is_plain: bool, wanted: fn(&Outcome) -> bool| {
        history.count(|call| call.request.lease_id.is_none() == is_plain && wanted(&call.outcome))
    };
    let is_held = |outcome: &Outcome| matches!(outcome, Outcome::Held { .. });
    let is_unknown = |outcome: &Outcome| *outcome == Outcome::Unknown;
    let counts =
        [true, false].map(|is_plain| (count(is_plain, is_held), count(is_plain, is_unknown)));
    for (held, unknown) in counts {
        assert!(held > 100 && unknown > 10, "{counts:?}");
    }
}

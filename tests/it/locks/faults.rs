//! The whole service under faults: two nodes as shipped, each behind a network of its own, and
//! clients that record their calls.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use reqwest::Method;
use tokio::task::block_in_place;
use uuid::Uuid;

use super::workload::{Load, Subject, run_during};
use crate::support::client::{TokenClient, try_send};
use crate::support::history::{Operation, Outcome, Request, Rules};
use crate::support::prelude::*;
use crate::support::proxy::Flow;

const LOAD: Load = Load {
    clients: 12,
    locks: 3,
    nodes: 2,
    lease: Duration::from_millis(2000),
    pause: Duration::from_millis(30),
    heartbeats: 3,
    forgotten: 4,
    accounts: 1,
    without_id: 40,
    own_lengths: false,
    time: Duration::ZERO,
};
/// The time that a client waits for a response.
const PATIENCE: Duration = Duration::from_secs(3);

/// The client of each node, which changes when the node is replaced.
struct Service {
    clients: [Mutex<TokenClient>; 2],
    /// The lease ids that were sent before.
    sent: Mutex<HashSet<Uuid>>,
}

impl Subject for Service {
    async fn perform(&self, node: usize, request: &Request, lease: Duration) -> Outcome {
        let (operation, lock) = (request.operation, &request.lock);
        let proof = request
            .lease_id
            .map(|id| format!("lease_id={id}"))
            .unwrap_or_default();
        let path = match operation {
            Operation::Acquire => {
                format!("/v1/acquire/{lock}?lease_ms={}&{proof}", lease.as_millis())
            }
            Operation::Heartbeat => format!("/v1/heartbeat/{lock}?{proof}"),
            Operation::Release => format!("/v1/release/{lock}?{proof}"),
        };
        let is_first = request
            .lease_id
            .is_none_or(|id| self.sent.lock().unwrap().insert(id));
        let request = self.clients[node]
            .lock()
            .unwrap()
            .request(Method::POST, &path)
            .timeout(PATIENCE);
        match try_send(request).await {
            Ok(response) if response.status == 200 => match (operation, response.verdict()) {
                (Operation::Acquire | Operation::Heartbeat, true) => {
                    let fencing_token = response
                        .header("lockable-fencing-token")
                        .unwrap()
                        .parse()
                        .unwrap();
                    Outcome::Held { fencing_token }
                }
                (Operation::Release, true) => Outcome::Released,
                (Operation::Heartbeat | Operation::Release, false) => Outcome::Lost,
                (Operation::Acquire, false) if is_first => Outcome::Refused,
                // Another lease holds the lock, or this one has ended: version 1 does not tell them
                // apart.
                (Operation::Acquire, false) => Outcome::Unknown,
            },
            Ok(response) => {
                assert_eq!(
                    response.status, 503,
                    "nothing but an honest \"unknown\": {response:?}"
                );
                assert!(response.header("retry-after").is_some(), "{response:?}");
                Outcome::Unknown
            }
            Err(_) => Outcome::Unheard,
        }
    }
}

/// The parts of the service that faults break.
struct Faults {
    cluster: Arc<Cluster>,
    db: Arc<Database>,
    proxies: [Proxy; 2],
    nodes: [Process; 2],
    service: Arc<Service>,
    token: lockable::secret::Secret,
}

impl Faults {
    fn start_node(url: &str) -> Process {
        block_in_place(|| {
            Process::start(|command| {
                command
                    .env("DATABASE_URL", url)
                    .env("LOCKABLE_LOG", "error,lockable::server=info");
            })
        })
    }

    /// Causes one fault after the other, each against a random node, with a moment of peace after
    /// it.
    async fn happen(&mut self) {
        for fault in 0..10 {
            let victim = rand::random_range(0..2);
            let proxy = &self.proxies[victim];
            match fault {
                0 => {
                    for _ in 0..4 {
                        proxy.cut();
                        moment(100).await;
                    }
                }
                1 => {
                    proxy.answers(Flow::Freeze);
                    moment(1500).await;
                    proxy.mend();
                }
                2 => {
                    proxy.requests(Flow::Drop);
                    moment(500).await;
                    proxy.cut();
                    proxy.mend();
                }
                3 => {
                    proxy.answers(Flow::Cut);
                    moment(600).await;
                    proxy.mend();
                }
                4 => block_in_place(|| {
                    self.cluster.crash();
                    self.cluster.start();
                }),
                5 => {
                    self.nodes[victim].signal(Signal::SIGSTOP);
                    moment(1500).await;
                    self.nodes[victim].signal(Signal::SIGCONT);
                }
                6 => {
                    self.nodes[victim].signal(Signal::SIGKILL);
                    self.nodes[victim] = Faults::start_node(&proxy.url(&self.db));
                    let client = self.nodes[victim].token(self.token.expose());
                    *self.service.clients[victim].lock().unwrap() = client;
                }
                7 => {
                    proxy.sever();
                    moment(1500).await;
                    proxy.mend();
                }
                8 => {
                    block_in_place(|| self.cluster.pause());
                    moment(1000).await;
                    block_in_place(|| self.cluster.resume());
                }
                _ => block_in_place(|| {
                    self.cluster.stop();
                    self.cluster.start();
                }),
            }
            moment(700).await;
        }
    }
}

/// Waits for as long as a fault lasts; not for something that may take so long.
async fn moment(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_promises_hold_while_things_break() {
    let cluster = Arc::new(block_in_place(Cluster::durable));
    let db = Arc::new(Database::create_in(&cluster).await);
    let app = TestApp::start_over(&db).await;
    let token = app.account("business").await.token().await;
    drop(app);
    let proxies = [Proxy::to(&db).await, Proxy::to(&db).await];
    let nodes = [
        Faults::start_node(&proxies[0].url(&db)),
        Faults::start_node(&proxies[1].url(&db)),
    ];
    let clients = [0, 1].map(|node: usize| Mutex::new(nodes[node].token(token.expose())));
    let service = Arc::new(Service {
        clients,
        sent: Mutex::default(),
    });
    let mut faults = Faults {
        cluster,
        db,
        proxies,
        nodes,
        service: service.clone(),
        token,
    };

    let history = run_during(service.clone(), LOAD, faults.happen()).await;

    let held = history.count(|call| matches!(call.outcome, Outcome::Held { .. }));
    let unknown = history.count(|call| matches!(call.outcome, Outcome::Unknown | Outcome::Unheard));
    // A statement whose result was lost may still take effect for some time; and there are outages
    // with their grace.
    history.assert_holds(Rules {
        lease: LOAD.lease,
        outage: Duration::from_secs(15),
        // A node that was paused, and its deadline after it.
        late: Duration::from_secs(8),
        compensation: Duration::from_secs(60),
    });
    assert!(
        held > 50 && unknown > 10,
        "{held} grants and renewals, {unknown} unknown"
    );
    // And all is well again: nothing is stuck.
    for lock in 0..LOAD.locks {
        for node in 0..LOAD.nodes {
            let lease_id = Uuid::new_v4();
            let name = format!("lock-{lock}");
            eventually("the lock can be had", async || {
                let request = Request::with_id(&name, lease_id, Operation::Acquire);
                let outcome = service.perform(node, &request, LOAD.lease).await;
                matches!(outcome, Outcome::Held { .. }).then_some(())
            })
            .await;
            let request = Request::with_id(&name, lease_id, Operation::Release);
            service.perform(node, &request, LOAD.lease).await;
        }
    }
}

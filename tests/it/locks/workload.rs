//! Clients that take, keep, lose and release locks at random, and record their calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::random_range;
use uuid::Uuid;

use crate::support::history::{History, Operation, Outcome};

/// The service under test, or one with a bug put in on purpose, which the checker must find.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Performs an operation on one lock through one node.
    fn perform(
        &self,
        node: usize,
        operation: Operation,
        lock: &str,
        lease_id: Uuid,
        lease: Duration,
    ) -> impl Future<Output = Outcome> + Send;
}

/// The size of a workload, and the habits of its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) locks: usize,
    pub(crate) nodes: usize,
    pub(crate) lease: Duration,
    /// The longest pause of a client between two requests.
    pub(crate) pause: Duration,
    /// The most heartbeats of a lease.
    pub(crate) heartbeats: usize,
    /// The percentage of leases that are forgotten, or remembered when it is too late.
    pub(crate) forgotten: u32,
    pub(crate) time: Duration,
}

/// Lets the clients work for the load's time, and returns their history.
pub(crate) async fn run(subject: Arc<impl Subject>, load: Load) -> Arc<History> {
    run_during(subject, load, tokio::time::sleep(load.time)).await
}

/// Lets the clients work while something happens, and returns their history.
pub(crate) async fn run_during(
    subject: Arc<impl Subject>,
    load: Load,
    happens: impl Future<Output = ()>,
) -> Arc<History> {
    let history = Arc::new(History::new());
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..load.clients)
        .map(|_| {
            let client = Client {
                subject: subject.clone(),
                history: history.clone(),
                load,
            };
            let over = over.clone();
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    client.round().await;
                }
            })
        })
        .collect();
    happens.await;
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    history
}

struct Client<S> {
    subject: Arc<S>,
    history: Arc<History>,
    load: Load,
}

impl<S: Subject> Client<S> {
    /// One lease, from the first request to the last, with the habits that clients have: most are
    /// tidy, some are slow, some go away, some come back when it is too late, and all repeat a
    /// request whose outcome is unknown.
    async fn round(&self) {
        let lock = format!("lock-{}", random_range(0..self.load.locks));
        let lease_id = Uuid::new_v4();
        let mut outcome = self.perform(Operation::Acquire, &lock, lease_id).await;
        for _ in 0..3 {
            if outcome != Outcome::Unknown {
                break;
            }
            self.pause().await;
            outcome = self.perform(Operation::Acquire, &lock, lease_id).await;
        }
        match outcome {
            Outcome::Held { .. } => {}
            // It may have been executed: then this ends the lease, and otherwise the service does
            // not know of one either.
            Outcome::Unknown => {
                self.perform(Operation::Release, &lock, lease_id).await;
                return;
            }
            _ => return self.pause().await,
        }
        for _ in 0..random_range(0..=self.load.heartbeats) {
            self.pause().await;
            if self.perform(Operation::Heartbeat, &lock, lease_id).await == Outcome::Lost {
                break;
            }
        }
        if random_range(0..100) < self.load.forgotten {
            if random_range(0..3) == 0 {
                return;
            }
            // The client was paused, and still believes that it holds the lock.
            tokio::time::sleep(self.load.lease.mul_f64(1.1)).await;
            self.perform(Operation::Heartbeat, &lock, lease_id).await;
        } else if random_range(0..20) == 0 {
            // It repeats the acquire of a lease that it has.
            self.perform(Operation::Acquire, &lock, lease_id).await;
        }
        let mut outcome = self.perform(Operation::Release, &lock, lease_id).await;
        for _ in 0..3 {
            if outcome != Outcome::Unknown {
                break;
            }
            self.pause().await;
            outcome = self.perform(Operation::Release, &lock, lease_id).await;
        }
        // A repetition that was delayed on its way: another client may have the lock now.
        let repeated = [Operation::Acquire, Operation::Heartbeat, Operation::Release];
        if let Some(operation) = repeated.get(random_range(0..8)) {
            self.pause().await;
            self.pause().await;
            self.perform(*operation, &lock, lease_id).await;
        }
    }

    async fn perform(&self, operation: Operation, lock: &str, lease_id: Uuid) -> Outcome {
        let node = random_range(0..self.load.nodes);
        let outcome = self
            .subject
            .perform(node, operation, lock, lease_id, self.load.lease);
        self.history
            .record(lock, lease_id, operation, outcome)
            .await
    }

    async fn pause(&self) {
        if !self.load.pause.is_zero() {
            tokio::time::sleep(self.load.pause.mul_f64(rand::random())).await;
        }
    }
}

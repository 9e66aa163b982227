//! Clients that take, keep, lose and give back locks at random, and write down what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::random_range;
use uuid::Uuid;

use crate::support::history::{Answer, History, Operation};

/// What is tried: the service, or something with a bug put in on purpose, which the checker must
/// find.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Asks one node about one lock.
    fn ask(
        &self,
        node: usize,
        operation: Operation,
        lock: &str,
        lease_id: Uuid,
        lease: Duration,
    ) -> impl Future<Output = Answer> + Send;
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) locks: usize,
    pub(crate) nodes: usize,
    pub(crate) lease: Duration,
    /// How long a client does something else between two requests, at most.
    pub(crate) pause: Duration,
    /// How often a lease is renewed, at most.
    pub(crate) heartbeats: usize,
    /// How many of a hundred leases are forgotten, or remembered when it is too late.
    pub(crate) forgotten: u32,
    pub(crate) time: Duration,
}

/// Lets the clients work for the load's time, and returns what they saw.
pub(crate) async fn run(subject: Arc<impl Subject>, load: Load) -> Arc<History> {
    run_during(subject, load, tokio::time::sleep(load.time)).await
}

/// Lets the clients work while something happens, and returns what they saw.
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
    /// tidy, some are slow, some go away, some come back when it is too late, and who gets no
    /// answer asks again.
    async fn round(&self) {
        let lock = format!("lock-{}", random_range(0..self.load.locks));
        let lease_id = Uuid::new_v4();
        let mut answer = self.ask(Operation::Acquire, &lock, lease_id).await;
        for _ in 0..3 {
            if answer != Answer::Unknown {
                break;
            }
            self.pause().await;
            answer = self.ask(Operation::Acquire, &lock, lease_id).await;
        }
        match answer {
            Answer::Held { .. } => {}
            // Sometimes it did arrive: then this ends it, and otherwise it is unknown to the
            // service too.
            Answer::Unknown => {
                self.ask(Operation::Release, &lock, lease_id).await;
                return;
            }
            _ => return self.pause().await,
        }
        for _ in 0..random_range(0..=self.load.heartbeats) {
            self.pause().await;
            if self.ask(Operation::Heartbeat, &lock, lease_id).await == Answer::Lost {
                break;
            }
        }
        if random_range(0..100) < self.load.forgotten {
            if random_range(0..3) == 0 {
                return;
            }
            // Was paused, and believes that it holds the lock still.
            tokio::time::sleep(self.load.lease.mul_f64(1.1)).await;
            self.ask(Operation::Heartbeat, &lock, lease_id).await;
        } else if random_range(0..20) == 0 {
            // Asks again for what it has.
            self.ask(Operation::Acquire, &lock, lease_id).await;
        }
        let mut answer = self.ask(Operation::Release, &lock, lease_id).await;
        for _ in 0..3 {
            if answer != Answer::Unknown {
                break;
            }
            self.pause().await;
            answer = self.ask(Operation::Release, &lock, lease_id).await;
        }
        // A repetition that was delayed on its way: somebody else may have the lock now.
        let repeated = [Operation::Acquire, Operation::Heartbeat, Operation::Release];
        if let Some(operation) = repeated.get(random_range(0..8)) {
            self.pause().await;
            self.pause().await;
            self.ask(*operation, &lock, lease_id).await;
        }
    }

    async fn ask(&self, operation: Operation, lock: &str, lease_id: Uuid) -> Answer {
        let node = random_range(0..self.load.nodes);
        let question = self
            .subject
            .ask(node, operation, lock, lease_id, self.load.lease);
        self.history
            .record(lock, lease_id, operation, question)
            .await
    }

    async fn pause(&self) {
        if !self.load.pause.is_zero() {
            tokio::time::sleep(self.load.pause.mul_f64(rand::random())).await;
        }
    }
}

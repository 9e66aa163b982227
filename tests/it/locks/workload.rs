//! Clients that take, keep, lose and release locks at random, and record their calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::random_range;
use uuid::Uuid;

use crate::support::history::{History, Operation, Outcome, Request};

/// The service under test, or one with a bug put in on purpose, which the checker must find.
pub(crate) trait Subject: Send + Sync + 'static {
    /// Performs a request through one node. Leases whose length the request does not name have that
    /// of `lease`.
    fn perform(
        &self,
        node: usize,
        request: &Request,
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
    /// The number of accounts. The clients are their processes, in turn.
    pub(crate) accounts: usize,
    /// The percentage of leases without an id.
    pub(crate) without_id: u32,
    /// True if each request names a length, from a third of the lease's to many times it.
    pub(crate) own_lengths: bool,
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
        .map(|number| {
            let client = Client {
                account: i64::try_from(number % load.accounts).unwrap() + 1,
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
    account: i64,
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
        if random_range(0..100) < self.load.without_id {
            return self.round_without_id(&lock).await;
        }
        let id = Some(Uuid::new_v4());
        let mut outcome = self.perform(Operation::Acquire, &lock, id).await;
        for _ in 0..3 {
            if !is_unknown(outcome) {
                break;
            }
            self.pause().await;
            outcome = self.perform(Operation::Acquire, &lock, id).await;
        }
        match outcome {
            Outcome::Held { .. } => {}
            // It may have been executed, or may yet be: then this ends the lease.
            Outcome::Unknown | Outcome::Unheard => {
                self.perform(Operation::Release, &lock, id).await;
                return;
            }
            _ => return self.pause().await,
        }
        for _ in 0..random_range(0..=self.load.heartbeats) {
            self.pause().await;
            if self.perform(Operation::Heartbeat, &lock, id).await == Outcome::Lost {
                break;
            }
        }
        if random_range(0..100) < self.load.forgotten {
            if random_range(0..3) == 0 {
                return;
            }
            // The client was paused, and still believes that it holds the lock.
            tokio::time::sleep(self.load.lease.mul_f64(1.1)).await;
            self.perform(Operation::Heartbeat, &lock, id).await;
        } else if random_range(0..20) == 0 {
            // It repeats the acquire of a lease that it has.
            self.perform(Operation::Acquire, &lock, id).await;
        }
        self.release(&lock, id).await;
        // A repetition that was delayed on its way: another client may have the lock now.
        let repeated = [Operation::Acquire, Operation::Heartbeat, Operation::Release];
        if let Some(operation) = repeated.get(random_range(0..8)) {
            self.pause().await;
            self.pause().await;
            self.perform(*operation, &lock, id).await;
        }
    }

    /// A lease without an id, which is its account's: a process that is refused may be told to
    /// renew or to release it, and one that heard nothing of its grant asks by a heartbeat.
    async fn round_without_id(&self, lock: &str) {
        let outcome = self.perform(Operation::Acquire, lock, None).await;
        let is_refused = outcome == Outcome::Refused;
        if is_refused && random_range(0..3) > 0 {
            return self.pause().await;
        }
        for _ in 0..random_range(0..=self.load.heartbeats) {
            self.pause().await;
            if self.perform(Operation::Heartbeat, lock, None).await == Outcome::Lost {
                return;
            }
        }
        let is_left_to_others = is_refused && random_range(0..4) > 0;
        if !is_left_to_others && random_range(0..100) >= self.load.forgotten {
            self.release(lock, None).await;
        }
    }

    /// Releases, and tries again while nothing is known.
    async fn release(&self, lock: &str, id: Option<Uuid>) {
        for _ in 0..4 {
            let outcome = self.perform(Operation::Release, lock, id).await;
            if !is_unknown(outcome) {
                break;
            }
            self.pause().await;
        }
    }

    async fn perform(&self, operation: Operation, lock: &str, lease_id: Option<Uuid>) -> Outcome {
        let length = self.load.own_lengths.then(|| {
            let lengths = [1.0 / 3.0, 1.0, 1.0, 2.0, 20.0];
            self.load
                .lease
                .mul_f64(lengths[random_range(0..lengths.len())])
        });
        let request = Request {
            length,
            ..Request::new(lock, self.account, lease_id, operation)
        };
        let node = random_range(0..self.load.nodes);
        let outcome = self.subject.perform(node, &request, self.load.lease);
        self.history.record(request.clone(), outcome).await
    }

    async fn pause(&self) {
        if !self.load.pause.is_zero() {
            tokio::time::sleep(self.load.pause.mul_f64(rand::random())).await;
        }
    }
}

fn is_unknown(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Unknown | Outcome::Unheard)
}

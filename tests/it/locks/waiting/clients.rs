//! Clients that wait, share, hold permits, hang up, come back, and let leases lapse, at random.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockable::locks::{Engine, Mode};
use rand::{random_bool, random_range};
use uuid::Uuid;

use crate::support::history::{History, Operation, Outcome, Request};
use crate::support::node::answer;

/// Leases lapse while others wait for them.
pub(super) const LEASE: Duration = Duration::from_millis(1500);
const PAUSE: Duration = Duration::from_millis(15);
const THREE: Mode = Mode::Semaphore { limit: 3 };

/// The locks, and the modes in which clients want each.
const LOCKS: [(&str, &[Mode]); 4] = [
    ("exclusive", &[Mode::Exclusive]),
    ("semaphore", &[THREE]),
    ("shared", &[Mode::Shared, Mode::Shared, Mode::Exclusive]),
    (
        "mixed",
        &[
            Mode::Exclusive,
            Mode::Shared,
            THREE,
            Mode::Semaphore { limit: 2 },
        ],
    ),
];

/// Lets clients work while something happens, and returns their history.
pub(super) async fn run_during(
    engines: Vec<Engine>,
    clients: usize,
    happens: impl Future<Output = ()>,
) -> Arc<History> {
    let history = Arc::new(History::new());
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..clients)
        .map(|number| {
            let client = Client {
                account: i64::try_from(number % 2).unwrap() + 1,
                engines: engines.clone(),
                history: history.clone(),
            };
            let is_over = is_over.clone();
            tokio::spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    client.round().await;
                }
            })
        })
        .collect();
    happens.await;
    is_over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    history
}

struct Client {
    account: i64,
    engines: Vec<Engine>,
    history: Arc<History>,
}

impl Client {
    /// One lease, from the first request to the last.
    async fn round(&self) {
        let (lock, modes) = LOCKS[random_range(0..LOCKS.len())];
        let mode = modes[random_range(0..modes.len())];
        // Leases that are not exclusive have ids; of the others, two of three.
        let has_id = mode != Mode::Exclusive || random_range(0..3) > 0;
        let acquire = Request {
            mode,
            wait: wait(),
            ..Request::new(
                lock,
                self.account,
                has_id.then(Uuid::new_v4),
                Operation::Acquire,
            )
        };
        match self.acquire(acquire.clone()).await {
            Outcome::Held { .. } => self.hold(&acquire).await,
            Outcome::Unknown | Outcome::Unheard if has_id => {
                self.perform(&acquire, Operation::Release).await;
            }
            _ => pause().await,
        }
    }

    /// Asks until it is known, or the client has enough of it.
    async fn acquire(&self, mut acquire: Request) -> Outcome {
        let mut outcome = Outcome::Unheard;
        for _ in 0..4 {
            outcome = match random_range(0..100) {
                // Hangs up, in the middle of its wait or before.
                0..20 => {
                    let patience = acquire.wait.mul_f64(rand::random());
                    let call = self.perform(&acquire, Operation::Acquire);
                    let answered = tokio::time::timeout(patience, call).await;
                    answered.unwrap_or(Outcome::Unheard)
                }
                // Asks again while the first request waits.
                20..30 if acquire.lease_id.is_some() => {
                    let again = async {
                        pause().await;
                        self.perform(&acquire, Operation::Acquire).await
                    };
                    let (first, second) =
                        tokio::join!(self.perform(&acquire, Operation::Acquire), again);
                    if is_unknown(second) { first } else { second }
                }
                _ => self.perform(&acquire, Operation::Acquire).await,
            };
            let is_given_up = acquire.lease_id.is_none() || random_bool(0.3);
            if !is_unknown(outcome) || is_given_up {
                break;
            }
            // Comes back: at once, or later than its place is certainly there.
            if random_bool(0.5) {
                pause().await;
            }
            acquire.wait = wait();
        }
        outcome
    }

    /// A lease that the client has.
    async fn hold(&self, acquire: &Request) {
        for _ in 0..random_range(0..3) {
            pause().await;
            if self.perform(acquire, Operation::Heartbeat).await == Outcome::Lost {
                return;
            }
        }
        match random_range(0..100) {
            // It is never heard of again.
            0..5 => return,
            // It was paused, and still believes that it holds the lock.
            5..8 => {
                tokio::time::sleep(LEASE.mul_f64(1.1)).await;
                self.perform(acquire, Operation::Heartbeat).await;
            }
            8..14 if acquire.lease_id.is_some() => {
                self.perform(acquire, Operation::Acquire).await;
            }
            _ => {}
        }
        for _ in 0..4 {
            if !is_unknown(self.perform(acquire, Operation::Release).await) {
                break;
            }
            pause().await;
        }
    }

    /// One call, through either node.
    async fn perform(&self, acquire: &Request, operation: Operation) -> Outcome {
        let request = Request {
            operation,
            ..acquire.clone()
        };
        let engine = &self.engines[random_range(0..self.engines.len())];
        let call = answer(engine, &request, LEASE);
        self.history.record(request.clone(), call).await
    }
}

/// Not at all, for a moment, or for long.
fn wait() -> Duration {
    Duration::from_millis(match random_range(0..4) {
        0 => 0,
        1 => random_range(1..100),
        _ => random_range(500..4000),
    })
}

async fn pause() {
    tokio::time::sleep(PAUSE.mul_f64(rand::random())).await;
}

fn is_unknown(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Unknown | Outcome::Unheard)
}

//! Whether the processors are what is short, and what that means for refusals.
//!
//! A refusal costs a good third of an answer. Where the database is the limit that is nothing, and
//! it goes out at once. Where the processors are, clients that ask again the moment they are
//! refused would take them away from those whose requests were accepted. Their refusals are then
//! held back (ADR 4), never for longer than `Retry-After` asks them to wait anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio_util::sync::CancellationToken;

use super::problem::{Code, Problem, RETRY_AFTER_S};

/// How often the threads' time is looked at.
const TICK: Duration = Duration::from_millis(20);
/// From this share of their time on, the serving threads are taken to have none left.
const BUSY: f64 = 0.98;
const FIRST_HOLD: Duration = Duration::from_millis(20);
/// Below this, nothing is held back.
const SHORTEST_HOLD: Duration = Duration::from_millis(5);
/// The most that a refusal is held back.
const LONGEST_HOLD: Duration = Duration::from_secs(RETRY_AFTER_S as u64);

/// How long refusals are held back now. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    hold_us: Arc<AtomicU64>,
}

impl Pressure {
    /// Looks at how busy the threads of the current tokio runtime are, until it is told to stop.
    pub fn watch(until: CancellationToken) -> Self {
        let pressure = Self::default();
        let watching = pressure.clone();
        let watch = async move {
            let threads = Handle::current().metrics();
            let mut before = (Instant::now(), busy(&threads));
            loop {
                tokio::time::sleep(TICK).await;
                let now = (Instant::now(), busy(&threads));
                let all = (now.0 - before.0) * threads.num_workers() as u32;
                watching.threads_were_busy((now.1 - before.1).div_duration_f64(all));
                before = now;
            }
        };
        tokio::spawn(until.run_until_cancelled_owned(watch));
        pressure
    }

    /// Returns when this problem may be told: at once, unless it is a refusal and the threads have
    /// no time left.
    pub async fn hold_back(&self, problem: &Problem) {
        let hold = self.hold();
        if problem.code() == Code::Overloaded && !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
    }

    /// How long a refusal is held back now.
    fn hold(&self) -> Duration {
        Duration::from_micros(self.hold_us.load(Ordering::Relaxed))
    }

    /// Holds back for half as long again while they were busy, for a tenth less while they were
    /// not: the way congestion control finds its rate.
    fn threads_were_busy(&self, share: f64) {
        let hold = self.hold();
        let next = if share > BUSY {
            (hold * 3 / 2).clamp(FIRST_HOLD, LONGEST_HOLD)
        } else if hold < SHORTEST_HOLD {
            Duration::ZERO
        } else {
            hold * 9 / 10
        };
        self.hold_us
            .store(next.as_micros() as u64, Ordering::Relaxed);
    }
}

/// How long the serving threads were not waiting for something to do, so far, all together.
fn busy(threads: &RuntimeMetrics) -> Duration {
    (0..threads.num_workers())
        .map(|thread| threads.worker_total_busy_duration(thread))
        .sum()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn refusals_are_held_back_only_while_the_threads_are_busy() {
        let pressure = Pressure::default();
        assert_eq!(pressure.hold(), Duration::ZERO);
        pressure.threads_were_busy(BUSY);
        assert_eq!(pressure.hold(), Duration::ZERO, "some time is left");
        pressure.threads_were_busy(1.0);
        assert_eq!(pressure.hold(), FIRST_HOLD);
        for _ in 0..100 {
            pressure.threads_were_busy(1.0);
        }
        assert_eq!(pressure.hold(), LONGEST_HOLD);
        for _ in 0..100 {
            pressure.threads_were_busy(0.5);
        }
        assert_eq!(pressure.hold(), Duration::ZERO);
    }

    #[tokio::test]
    async fn only_refusals_for_too_much_load_are_held_back_and_only_under_pressure() {
        let pressure = Pressure::default();
        let told_at_once = |code| {
            pressure
                .hold_back(&Problem::new(code, ""))
                .now_or_never()
                .is_some()
        };
        assert!(told_at_once(Code::Overloaded));
        pressure.threads_were_busy(1.0);
        assert!(!told_at_once(Code::Overloaded));
        assert!(
            Code::ALL
                .iter()
                .all(|code| *code == Code::Overloaded || told_at_once(*code))
        );
        let began = Instant::now();
        pressure
            .hold_back(&Problem::new(Code::Overloaded, ""))
            .await;
        assert!(began.elapsed() >= FIRST_HOLD);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn threads_without_time_are_noticed_and_threads_with_time_too() {
        let stop = CancellationToken::new();
        let pressure = Pressure::watch(stop.clone());
        let busy = tokio::spawn({
            let pressure = pressure.clone();
            async move {
                while pressure.hold().is_zero() {
                    // Work without a pause, as a crowd of connections is.
                    std::thread::sleep(Duration::from_millis(2));
                    tokio::task::yield_now().await;
                }
            }
        });
        busy.await.unwrap();
        while !pressure.hold().is_zero() {
            tokio::time::sleep(TICK).await;
        }
        stop.cancel();
    }
}

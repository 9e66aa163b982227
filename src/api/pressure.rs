//! Holds rejections for too much load back while the processors have no time left.
//!
//! To reject a request takes processor time too. If the database is the limit, that does not
//! matter, and rejections are sent at once. If the processors are, clients that repeat a rejected
//! request at once would take them away from accepted requests. Rejections are then held back
//! (ADR 4), never for longer than their `Retry-After`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeMetrics};
use tokio_util::sync::CancellationToken;

use super::problem::{Code, Problem, RETRY_AFTER_S};

/// The interval at which the threads' busy time is read.
const TICK: Duration = Duration::from_millis(20);
/// The share of busy time above which the serving threads have no time left.
const BUSY: f64 = 0.98;
const FIRST_HOLD: Duration = Duration::from_millis(20);
/// The shortest hold: a shorter one becomes none.
const SHORTEST_HOLD: Duration = Duration::from_millis(5);
/// The longest hold.
const LONGEST_HOLD: Duration = Duration::from_secs(RETRY_AFTER_S as u64);

/// The time for which rejections are held back now. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    hold_us: Arc<AtomicU64>,
}

impl Pressure {
    /// Watches how busy the threads of the current tokio runtime are, until `until` is cancelled.
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

    /// Waits until this problem may be sent: not at all, unless it rejects a request for too much
    /// load and the threads have no time left.
    pub async fn hold_back(&self, problem: &Problem) {
        let hold = self.hold();
        if problem.code() == Code::Overloaded && !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
    }

    fn hold(&self) -> Duration {
        Duration::from_micros(self.hold_us.load(Ordering::Relaxed))
    }

    /// Lengthens the hold by half if the threads were busy, shortens it by a tenth if not: as
    /// congestion control finds its rate.
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

/// The busy time of all serving threads together since the start.
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
    fn rejections_are_held_back_only_while_the_threads_are_busy() {
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
    async fn only_rejections_for_too_much_load_are_held_back_and_only_under_pressure() {
        let pressure = Pressure::default();
        let sent_at_once = |code| {
            pressure
                .hold_back(&Problem::new(code, ""))
                .now_or_never()
                .is_some()
        };
        assert!(sent_at_once(Code::Overloaded));
        pressure.threads_were_busy(1.0);
        assert!(!sent_at_once(Code::Overloaded));
        assert!(
            Code::ALL
                .iter()
                .all(|code| *code == Code::Overloaded || sent_at_once(*code))
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
                    // Work without a pause, as many connections cause it.
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

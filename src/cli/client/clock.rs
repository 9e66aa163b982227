//! Instants that count the time that the machine sleeps (`CLOCK_BOOTTIME`). The service's clock
//! goes on during a suspend; a deadline on a clock that stops would seem to be ahead after it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// How often the clock is read while a timer cannot be had.
const READ_EVERY: Duration = Duration::from_millis(100);

/// An instant, as time since the machine started. Means the same in all processes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct BootInstant(Duration);

impl BootInstant {
    pub(super) fn now() -> Self {
        // Every Linux since 2.6.39 has this clock.
        clock_gettime(ClockId::CLOCK_BOOTTIME)
            .or_else(|_| clock_gettime(ClockId::CLOCK_MONOTONIC))
            .map_or(Self(Duration::ZERO), |time| Self(time.into()))
    }

    /// How far ahead it is; zero if it has passed.
    pub(super) fn remaining(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    pub(super) fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}

impl std::ops::Add<Duration> for BootInstant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl std::ops::Sub<Duration> for BootInstant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

/// Waits until this instant. After a suspend it returns at once if the instant has passed.
pub(super) async fn sleep_until(at: BootInstant) {
    while !at.has_passed() {
        // Without a descriptor for a timer, short sleeps of the other clock do.
        match timer(at) {
            Ok(timer) if timer.readable().await.is_ok() => {}
            _ => tokio::time::sleep(at.remaining().min(READ_EVERY)).await,
        }
    }
}

/// As [`sleep_until`]: waits for this long from now.
pub(super) async fn sleep(duration: Duration) {
    sleep_until(BootInstant::now() + duration).await;
}

/// The work's result, or `None` if the instant comes first.
pub(super) async fn timeout_at<T>(at: BootInstant, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        outcome = work => Some(outcome),
        () = sleep_until(at) => None,
    }
}

#[expect(
    deprecated,
    reason = "sound for an owned descriptor; its replacement is unsafe, which is forbidden here"
)]
fn timer(at: BootInstant) -> std::io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(timerfd::ClockId::CLOCK_BOOTTIME, flags)?;
    let at = Expiration::OneShot(TimeSpec::from_duration(at.0));
    timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
    AsyncFd::new(timer.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/proc/uptime` counts suspended time too, in hundredths of a second.
    #[test]
    fn it_counts_from_the_start_of_the_machine() {
        let uptime = || {
            let text = std::fs::read_to_string("/proc/uptime").unwrap();
            let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
            Duration::from_secs_f64(seconds)
        };
        let before = uptime();
        let BootInstant(now) = BootInstant::now();
        let after = uptime();
        let rounding = Duration::from_millis(20);
        assert!(
            before <= now + rounding && now <= after + rounding,
            "{before:?} {now:?} {after:?}"
        );
    }

    #[tokio::test]
    async fn a_timer_ends_at_its_instant_and_not_before() {
        let at = BootInstant::now() + Duration::from_millis(30);
        assert!(!at.has_passed());
        sleep_until(at).await;
        assert!(at.has_passed());
        assert_eq!(timeout_at(at, std::future::pending::<()>()).await, None);
        assert_eq!(
            timeout_at(at + Duration::from_secs(60), async { 7 }).await,
            Some(7)
        );
    }
}

//! Waiting for events instead of sleeping.

use std::time::{Duration, Instant};

/// The time after which a test gives up waiting. Generous: it bounds a hang, it does not
/// measure speed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Calls `look` until it returns `Some`, and returns that. Panics with `what` after [`DEADLINE`].
pub(crate) async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, look).await
}

/// As [`eventually`], with a deadline of the caller's.
pub(crate) async fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = look().await {
            return answer;
        }
        assert!(
            started.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

//! Pauses between requests.

use std::time::Duration;

use rand::RngExt;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);

/// Pauses that grow, with jitter.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// A pause between half of the present one and all of it; the next is twice as long.
    pub(super) fn next(&mut self) -> Duration {
        let pause = jitter(self.0);
        self.0 = (self.0 * 2).min(LONGEST);
        pause
    }
}

/// A pause before a failed heartbeat is repeated: a twentieth of the lease, within bounds.
pub(super) fn heartbeat_pause(lease: Duration) -> Duration {
    jitter((lease / 20).clamp(FIRST, LONGEST))
}

fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let mut backoff = Backoff::default();
        let mut upper = FIRST;
        for _ in 0..10 {
            let pause = backoff.next();
            assert!(
                upper / 2 <= pause && pause <= upper,
                "{pause:?} of {upper:?}"
            );
            upper = (upper * 2).min(LONGEST);
        }
        assert_eq!(upper, LONGEST);
        let pauses: std::collections::HashSet<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses.len() > 1);
    }
}

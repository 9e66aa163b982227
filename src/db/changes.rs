//! Notices of changed rows, from the database's triggers to the caches of this node.
//!
//! Triggers send `<kind>:<id>` on the channel `lockable_changes`. A notice can be missed only while
//! the connection is away, and that is known: [`Changes::is_current`] is true only while the
//! listener answered a ping within the last second, and [`Notice::Missed`] is sent before it can
//! become true again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sqlx::Executor;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio_util::sync::CancellationToken;

use super::connection::ACQUIRE_TIMEOUT;
use crate::id::{AccountId, PlanId, TokenId};

/// How old the last sign of life of the listener may be for caches to be trusted.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How often the listener pings: three tries before trust ends.
const PING_EVERY: Duration = Duration::from_millis(300);
const CHANNEL: &str = "lockable_changes";

/// A row that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A plan's limits.
    Plan(PlanId),
    /// An account's plan, state or settings, or those of its namespaces.
    Account(AccountId),
    /// An API token: made, revoked, moved.
    Token(TokenId),
    /// Anything may have changed: the connection was away.
    Missed,
}

/// A cache's callback. It runs on the listener's task, so it has to be quick.
pub type Subscriber = Box<dyn Fn(Notice) + Send + Sync>;

/// The state of the listener, shared with the caches that ask whether they are current.
#[derive(Clone, Debug)]
pub struct Changes {
    started: Instant,
    /// Milliseconds after `started` of the last sign of life, 0 for none.
    alive_at_ms: Arc<AtomicU64>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            alive_at_ms: Arc::new(AtomicU64::new(0)),
        }
    }
}

impl Changes {
    /// True if every change up to about a second ago has been announced to the caches.
    pub fn is_current(&self) -> bool {
        let alive_at_ms = self.alive_at_ms.load(Ordering::Acquire);
        let now_ms = self.now_ms();
        alive_at_ms != 0 && now_ms.saturating_sub(alive_at_ms) < TRUSTED_FOR.as_millis() as u64
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Listens until `stop`, reconnecting with back-off.
    pub async fn listen(
        self,
        options: PgConnectOptions,
        subscribers: Vec<Subscriber>,
        stop: CancellationToken,
    ) {
        let mut backoff = Duration::from_millis(100);
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.listen_once(&options, &subscribers, &mut backoff) => outcome,
            };
            self.alive_at_ms.store(0, Ordering::Release);
            notify(&subscribers, Notice::Missed);
            if let Err(error) = outcome {
                tracing::warn!(
                    %error,
                    "not told of changes: asking the database for each request until reconnected"
                );
            }
            // Jitter, so that the nodes do not come back to a restarted database all at once.
            let pause = backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            backoff = (backoff * 2).min(Duration::from_secs(2));
        }
    }

    async fn listen_once(
        &self,
        options: &PgConnectOptions,
        subscribers: &[Subscriber],
        backoff: &mut Duration,
    ) -> sqlx::Result<()> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_with(options.clone().application_name("lockable changes"))
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        // A change before this connection listened was missed.
        notify(subscribers, Notice::Missed);
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notification = listener.try_recv() => {
                    let Some(notification) = notification? else {
                        return Err(sqlx::Error::Protocol(
                            "the listener lost its connection".into(),
                        ));
                    };
                    notify(subscribers, parse(notification.payload()));
                }
                _ = ping.tick() => {
                    let sent_ms = self.now_ms();
                    tokio::time::timeout(TRUSTED_FOR, listener.execute("/* changes.ping */ SELECT"))
                        .await
                        .map_err(|_| sqlx::Error::PoolTimedOut)??;
                    // Notices that came with the answer are in the listener's buffer: told before
                    // the answer counts.
                    while let Some(notification) = listener.next_buffered() {
                        notify(subscribers, parse(notification.payload()));
                    }
                    self.alive_at_ms.store(sent_ms, Ordering::Release);
                    *backoff = Duration::from_millis(100);
                }
            }
        }
    }
}

fn notify(subscribers: &[Subscriber], notice: Notice) {
    for subscriber in subscribers {
        subscriber(notice);
    }
}

/// Reads a notice. One of an unknown kind, which a newer program sent, may be about anything.
fn parse(payload: &str) -> Notice {
    let known = payload.split_once(':').and_then(|(kind, id)| {
        let id = id.parse().ok()?;
        match kind {
            "plan" => Some(Notice::Plan(PlanId(id))),
            "account" => Some(Notice::Account(AccountId(id))),
            "token" => Some(Notice::Token(TokenId(id))),
            _ => None,
        }
    });
    known.unwrap_or(Notice::Missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_name_their_row_and_unknown_ones_mean_anything() {
        assert_eq!(parse("account:42"), Notice::Account(AccountId(42)));
        assert_eq!(parse("token:7"), Notice::Token(TokenId(7)));
        assert_eq!(parse("webhook:7"), Notice::Missed);
        assert_eq!(parse("account:x"), Notice::Missed);
        assert_eq!(parse(""), Notice::Missed);
    }

    #[test]
    fn nothing_is_current_before_the_first_sign_of_life() {
        assert!(!Changes::default().is_current());
    }
}

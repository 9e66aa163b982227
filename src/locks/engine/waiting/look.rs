//! The look: twice a second, one connection reads what the database knows of this node's waiters,
//! and listens for notices in between. Whatever else was lost, the next look makes up for it; and
//! while a node looks, other nodes grant to its waiters.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::time::MissedTickBehavior;

use super::herald::{CHANNEL, LOOK, attachments_of};
use super::{COMPENSATION_DEADLINE, Signal, Waiting};
use crate::db;
use crate::id::{AccountId, NamespaceId};
use crate::locks::engine::gate::{Abandoned, GateRequest};
use crate::locks::engine::metric;
use crate::locks::engine::statements::waiting::{self as statements, TicketRow};
use crate::locks::{LockKey, LockName};

/// How often a node looks. It counts as dead five times as long after its last look.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The least pause between two looks, so that a storm of notices is no load of its own.
const REST: Duration = Duration::from_millis(25);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

fn key(namespace_id: i64, name: &str) -> Option<LockKey> {
    Some(LockKey {
        namespace_id: NamespaceId(namespace_id),
        name: LockName::new(name).ok()?,
    })
}

impl Waiting {
    /// Looks and listens until its task is ended; connects again when the connection was lost.
    pub(in crate::locks::engine) async fn look(self: Arc<Self>, database: PgConnectOptions) {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let Err(error) = self.look_until_lost(&database, &mut backoff).await;
            metrics::counter!(metric::LOOKS_FAILED).increment(1);
            if self.len() > 0 {
                tracing::warn!(%error, "cannot look at what the waiters wait for: tried again");
            }
            // Jitter, so that the nodes do not come back to a restarted database all at once.
            tokio::time::sleep(backoff.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    async fn look_until_lost(
        &self,
        database: &PgConnectOptions,
        backoff: &mut Duration,
    ) -> Result<Infallible, sqlx::Error> {
        let pool = db::pool(database.clone(), db::Purpose::LockEngine, 1);
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_tickets = true;
        loop {
            tokio::select! {
                notification = listener.try_recv() => {
                    let Some(notification) = notification? else {
                        return Err(sqlx::Error::PoolClosed);
                    };
                    self.hear(notification.payload());
                    continue;
                }
                _ = interval.tick() => {
                    // An idle node writes nothing: a request that begins to wait says that it
                    // lives.
                    if !has_tickets && self.len() == 0 {
                        continue;
                    }
                }
                () = self.look_wanted.notified() => tokio::time::sleep(REST).await,
            }
            let look = self.look_once(&mut listener);
            has_tickets = tokio::time::timeout(db::ACQUIRE_TIMEOUT, look)
                .await
                .map_err(|_| sqlx::Error::PoolTimedOut)??;
            *backoff = FIRST_BACKOFF;
            // Notices that came with the rows are in the listener's buffer.
            while let Some(notification) = listener.next_buffered() {
                self.hear(notification.payload());
            }
        }
    }

    /// A notice of another node.
    fn hear(&self, notice: &str) {
        metrics::counter!(metric::NOTICES_HEARD).increment(1);
        let Some(attachments) = attachments_of(notice, self.node_id) else {
            debug_assert!(notice == LOOK || !notice.is_empty());
            return self.look_wanted.notify_one();
        };
        for attachment in attachments {
            self.tell_claimed(attachment);
        }
    }

    /// Returns true if this node has tickets.
    async fn look_once(&self, connection: &mut PgListener) -> sqlx::Result<bool> {
        let began_at = Instant::now();
        let tickets = statements::look(connection, self.node_id).await?;
        if tickets.is_empty() && self.len() == 0 {
            return Ok(false);
        }
        let locks = statements::look_at_locks(connection, self.node_id).await?;
        let read_at = Instant::now();
        self.compare(&tickets, began_at);
        self.set_timers(locks.into_iter().filter_map(|row| {
            let within = Duration::from_millis(row.ends_in_ms.unsigned_abs());
            Some((key(row.namespace_id, &row.name)?, read_at + within))
        }));
        Ok(!tickets.is_empty())
    }

    /// Tells waiters what the database knows and they do not; leaves tickets that nobody attends.
    fn compare(&self, tickets: &[TicketRow], began_at: Instant) {
        let mut unattended = Vec::new();
        let mut seen = HashSet::with_capacity(tickets.len());
        {
            let state = self.state();
            for ticket in tickets {
                seen.insert(ticket.attachment);
                match state.waiters.get(&ticket.attachment) {
                    Some(entry) if !ticket.is_admitted => entry.signal.send(Signal::REFUSED),
                    Some(entry) if ticket.is_claimed || ticket.is_detached => {
                        entry.signal.send(Signal::CONFIRM);
                    }
                    Some(_) => {}
                    None => unattended.push(ticket),
                }
            }
            for (attachment, entry) in &state.waiters {
                let has_joined = entry.joined_at.is_some_and(|at| at < began_at);
                if has_joined && !seen.contains(attachment) {
                    entry.signal.send(Signal::CONFIRM);
                }
            }
        }
        for ticket in unattended {
            if let Some(key) = key(ticket.namespace_id, &ticket.name) {
                let abandoned = Abandoned {
                    lease_id: ticket.lease_id,
                    needs_proof: ticket.needs_proof,
                    attachment: ticket.attachment,
                };
                let account_id = AccountId(ticket.account_id);
                let request = GateRequest::unattended(key, account_id, abandoned);
                self.send(request, COMPENSATION_DEADLINE);
            }
        }
    }
}

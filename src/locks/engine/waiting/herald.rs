//! Notices to other nodes: their tickets were granted claims. They make a hand-over faster and are
//! never needed; so they may be lost, and are not durable.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use crate::db;
use crate::locks::engine::gate::Claim;
use crate::locks::engine::metric;
use crate::locks::engine::statements::waiting as statements;

/// The channel of the notices.
pub(super) const CHANNEL: &str = "lockable_grants";
/// The notice that asks every node to look at all its waiters.
pub(super) const LOOK: &str = "*";
/// The most claims that a notice names: PostgreSQL takes at most 7,999 bytes.
const MOST_NAMED: usize = 150;

/// The claims that other nodes are to be told of.
#[derive(Debug)]
pub(in crate::locks::engine) struct Notices(pub(super) mpsc::UnboundedReceiver<Claim>);

impl Notices {
    /// Sends notices until the engine ends: all that has come meanwhile in one, as a statement of
    /// its own after the commit of the hand-over. Inside of it, a notice serializes commits.
    pub(in crate::locks::engine) async fn send_all(mut self, database: PgConnectOptions) {
        let mut connection = None;
        let mut claims = Vec::new();
        while self.0.recv_many(&mut claims, usize::MAX).await > 0 {
            match send(&mut connection, &database, &notice(&claims)).await {
                Ok(()) => metrics::counter!(metric::NOTICES_SENT).increment(1),
                Err(error) => {
                    tracing::debug!(%error, "a notice of grants was lost");
                    connection = None;
                }
            }
            claims.clear();
        }
        if let Some(connection) = connection {
            let _ = PgConnection::close(connection).await;
        }
    }
}

/// `<node>:<attachment>`, separated by commas.
fn notice(claims: &[Claim]) -> String {
    if claims.len() > MOST_NAMED {
        return LOOK.to_owned();
    }
    let named: Vec<String> = claims
        .iter()
        .map(|claim| format!("{}:{}", claim.node_id, claim.attachment))
        .collect();
    named.join(",")
}

async fn send(
    connection: &mut Option<PgConnection>,
    database: &PgConnectOptions,
    notice: &str,
) -> sqlx::Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(db::connect(database, db::Purpose::LockEngine).await?),
    };
    let send = statements::notify(connection, CHANNEL, notice);
    tokio::time::timeout(db::ACQUIRE_TIMEOUT, send)
        .await
        .map_err(|_| sqlx::Error::PoolTimedOut)?
}

/// The attachments of a node's waiters that a notice names; `None` if it may be about any.
pub(super) fn attachments_of(notice: &str, node_id: i64) -> Option<Vec<i64>> {
    let mut attachments = Vec::new();
    for claim in notice.split(',') {
        let (node, attachment) = claim.split_once(':')?;
        if node.parse::<i64>().ok()? == node_id {
            attachments.push(attachment.parse().ok()?);
        }
    }
    Some(attachments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(node_id: i64, attachment: i64) -> Claim {
        Claim {
            node_id,
            attachment,
        }
    }

    #[test]
    fn a_notice_names_the_waiters_of_each_node() {
        let notice = notice(&[claim(7, 1), claim(8, 2), claim(7, i64::MAX)]);
        assert_eq!(attachments_of(&notice, 7), Some(vec![1, i64::MAX]));
        assert_eq!(attachments_of(&notice, 8), Some(vec![2]));
        assert_eq!(attachments_of(&notice, 9), Some(vec![]));
    }

    #[test]
    fn a_notice_that_is_long_or_not_understood_may_be_about_any_waiter() {
        let claims: Vec<Claim> = (0..=MOST_NAMED as i64).map(|n| claim(7, n)).collect();
        assert_eq!(attachments_of(&notice(&claims), 7), None);
        assert!(notice(&claims[1..]).len() < 8000);
        assert_eq!(attachments_of("", 7), None);
        assert_eq!(attachments_of("7:x", 7), None);
    }
}

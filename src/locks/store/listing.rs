//! The list of a namespace's held locks.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::{HeldLease, LockView};
use crate::id::NamespaceId;

/// Which locks of a namespace are asked for.
#[derive(Clone, Debug)]
pub struct LocksAfter<'a> {
    /// Those whose names begin so.
    pub prefix: &'a str,
    /// Those whose names come after this one.
    pub after: Option<String>,
    /// So many, and one more if there is one.
    pub limit: i64,
}

struct LeaseOfLock {
    name: String,
    account_id: i64,
    lease_id: Uuid,
    fencing_token: i64,
    permits: i32,
    slot: Option<i32>,
    lease_ms: i32,
    max_hold_ms: Option<i32>,
    acquired_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    remaining_ms: i64,
    holder: Option<String>,
    metadata: Option<serde_json::Value>,
    queue_length: i64,
}

/// The held locks of a namespace in the order of their names, each with its leases and the number
/// of its waiters; without its queue.
///
/// # Errors
/// If the query fails.
pub async fn list_of_namespace(
    pool: &PgPool,
    namespace_id: NamespaceId,
    page: LocksAfter<'_>,
) -> sqlx::Result<Vec<(String, LockView)>> {
    // The longest name has 255 bytes: with so many of the last character, no name with the prefix
    // is greater.
    let last = format!("{}{}", page.prefix, "\u{10ffff}".repeat(64));
    let rows = sqlx::query_as!(
        LeaseOfLock,
        r#"/* locks.list_of_namespace */
        WITH clock AS MATERIALIZED (
          SELECT * FROM lease_clock LIMIT 1
        ), names AS MATERIALIZED (
          SELECT DISTINCT l.name FROM unended_leases l CROSS JOIN clock c
           WHERE l.namespace_id = $1 AND l.name >= $2 AND l.name <= $3
             AND ($4::text IS NULL OR l.name > $4)
             AND lease_is_live(l.expires_at, l.end_reason, l.length_ms, c.recent_until,
                               c.open_start, c.outage_start, c.outage_end, c.grace_ms)
           ORDER BY l.name LIMIT $5::bigint + 1
        )
        SELECT l.name AS "name!", l.account_id AS "account_id!", l.lease_id AS "lease_id!",
               l.fencing_token AS "fencing_token!", l.permits AS "permits!", l.slot,
               l.lease_ms AS "lease_ms!", l.max_hold_ms, l.acquired_at AS "acquired_at!",
               l.expires_at AS "expires_at!", l.holder, l.metadata,
               greatest(0, (extract(epoch FROM l.expires_at - clock_timestamp()) * 1000)::bigint)
                 AS "remaining_ms!",
               (SELECT count(*) FROM lock_tickets t
                 WHERE t.namespace_id = $1 AND t.name = n.name AND t.claim_token IS NULL
                   AND t.waits_until > clock_timestamp() - interval '20 s') AS "queue_length!"
          FROM names n
         CROSS JOIN clock c
         CROSS JOIN LATERAL (
           SELECT * FROM unended_leases u WHERE u.namespace_id = $1 AND u.name = n.name OFFSET 0
         ) l
         WHERE lease_is_live(l.expires_at, l.end_reason, l.length_ms, c.recent_until,
                             c.open_start, c.outage_start, c.outage_end, c.grace_ms)
         ORDER BY l.name, l.fencing_token"#,
        namespace_id.0,
        page.prefix,
        last,
        page.after,
        page.limit,
    )
    .fetch_all(pool)
    .await?;
    let mut locks: BTreeMap<String, LockView> = BTreeMap::new();
    for row in rows {
        let lock = locks.entry(row.name).or_insert_with(|| LockView {
            leases: Vec::new(),
            queue: Vec::new(),
            queue_length: row.queue_length,
        });
        lock.leases.push(HeldLease {
            account_id: row.account_id,
            lease_id: row.lease_id,
            fencing_token: row.fencing_token,
            permits: row.permits,
            slot: row.slot,
            lease_ms: row.lease_ms,
            max_hold_ms: row.max_hold_ms,
            acquired_at: row.acquired_at,
            expires_at: row.expires_at,
            remaining_ms: row.remaining_ms,
            holder: row.holder,
            metadata: row.metadata,
        });
    }
    Ok(locks.into_iter().collect())
}

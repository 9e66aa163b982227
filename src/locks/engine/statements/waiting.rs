//! The statements of this node's waiters: the look, and the notices to other nodes.

use sqlx::PgConnection;
use sqlx::postgres::PgListener;
use uuid::Uuid;

/// A ticket of this node.
pub(in crate::locks::engine) struct TicketRow {
    pub(in crate::locks::engine) namespace_id: i64,
    pub(in crate::locks::engine) name: String,
    pub(in crate::locks::engine) attachment: i64,
    pub(in crate::locks::engine) account_id: i64,
    pub(in crate::locks::engine) lease_id: Uuid,
    pub(in crate::locks::engine) needs_proof: bool,
    pub(in crate::locks::engine) is_detached: bool,
    pub(in crate::locks::engine) is_claimed: bool,
    pub(in crate::locks::engine) is_admitted: bool,
}

/// A lock that this node waits for, and how long until it can be asked about again.
pub(in crate::locks::engine) struct LockRow {
    pub(in crate::locks::engine) namespace_id: i64,
    pub(in crate::locks::engine) name: String,
    pub(in crate::locks::engine) ends_in_ms: i64,
}

/// Notes that the node lives, and reads its tickets.
///
/// # Errors
/// If the database is unavailable.
pub(in crate::locks::engine) async fn look(
    connection: &mut PgListener,
    node_id: i64,
) -> sqlx::Result<Vec<TicketRow>> {
    sqlx::query_as!(
        TicketRow,
        r#"/* waiting.look */
        WITH node AS (
          INSERT INTO nodes (node_id, looked_at) VALUES ($1, clock_timestamp())
          ON CONFLICT (node_id) DO UPDATE SET looked_at = excluded.looked_at
        ), tickets AS MATERIALIZED (
          SELECT * FROM lock_tickets WHERE node_id = $1
        ), tokens AS MATERIALIZED (
          SELECT token_id, token_is_admitted(token_id) AS is_admitted
            FROM (SELECT DISTINCT token_id FROM tickets) t
        )
        SELECT t.namespace_id, t.name, t.attachment, t.account_id, t.lease_id, t.needs_proof,
               t.is_detached, t.claim_token IS NOT NULL AS "is_claimed!",
               k.is_admitted AS "is_admitted!"
          FROM tickets t JOIN tokens k USING (token_id)"#,
        node_id
    )
    .fetch_all(connection)
    .await
}

/// Reads when the leases end that the node waits for, by the rule of outages.
///
/// # Errors
/// If the database is unavailable.
pub(in crate::locks::engine) async fn look_at_locks(
    connection: &mut PgListener,
    node_id: i64,
) -> sqlx::Result<Vec<LockRow>> {
    sqlx::query_as!(
        LockRow,
        r#"/* waiting.look_at_locks */
        SELECT k.namespace_id, k.name, greatest(0, extract(epoch FROM coalesce(
                 CASE WHEN l.end_reason <> 0 THEN NULL
                      WHEN l.account_id <> 0 THEN
                        lease_lapses_at(l.expires_at, greatest(l.lease_ms, l.renewed_ms),
                          c.recent_until, c.outage_start, c.outage_end, c.grace_ms)
                      ELSE (SELECT min(lease_lapses_at(m.expires_at,
                                     greatest(m.lease_ms, m.renewed_ms), c.recent_until,
                                     c.outage_start, c.outage_end, c.grace_ms))
                              FROM lock_members m
                             WHERE m.namespace_id = k.namespace_id AND m.name = k.name
                               AND m.end_reason = 0) END,
                 clock_timestamp()) - clock_timestamp()) * 1000)::bigint AS "ends_in_ms!"
          FROM (SELECT DISTINCT namespace_id, name FROM lock_tickets
                 WHERE node_id = $1 AND claim_token IS NULL AND NOT is_detached) k
         CROSS JOIN lease_clock c
         CROSS JOIN LATERAL (
           SELECT * FROM locks l WHERE l.namespace_id = k.namespace_id AND l.name = k.name
            LIMIT 1
         ) l"#,
        node_id
    )
    .fetch_all(connection)
    .await
}

/// Sends a notice. It need not be durable.
///
/// # Errors
/// If the database is unavailable.
pub(in crate::locks::engine) async fn notify(
    connection: &mut PgConnection,
    channel: &str,
    notice: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        r#"/* waiting.notify */
        SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"#,
        channel,
        notice,
    )
    .fetch_one(connection)
    .await
    .map(drop)
}

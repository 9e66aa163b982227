//! Removes rows that nobody needs any more: those of locks that have been idle for an hour, and the
//! memory of leases that ended two hours ago. Gates that nobody asks about any more are advanced,
//! which clears them.
//!
//! It walks the tables by physical blocks, a stretch at a time, so that it needs no index on
//! columns that every heartbeat changes, and it skips rows that are locked. It deletes no row that
//! was touched after the oldest running transaction began: a statement may have drawn the fencing
//! token for a lock that it believes to be new, and would insert that older token after the
//! deletion. A statement that observed a row before its deletion does no harm: it inserts the row
//! anew, with a new fencing token.

use std::time::Duration;

use sqlx::PgPool;

use crate::events::{LapsedLease, NewEvent, Recorder};

/// The number of blocks of 8 KiB that one statement walks.
const STRETCH_BLOCKS: i64 = 256;
/// The whole table is walked about once in this time.
const ROUND: Duration = Duration::from_secs(600);

/// The position of a node's sweeper in the tables.
#[derive(Clone, Debug, Default)]
pub struct Sweeper {
    locks_block: i64,
    lease_ends_block: i64,
    members_block: i64,
    tickets_block: i64,
    recorder: Recorder,
}

impl Sweeper {
    /// A sweeper that records the lapsed leases which it finds.
    pub fn recording(recorder: Recorder) -> Self {
        Self {
            recorder,
            ..Self::default()
        }
    }

    /// Does one second's share of the work. Returns the number of locks whose rows it removed.
    ///
    /// # Errors
    /// If a query fails. The next call continues from the same position.
    pub async fn step(&mut self, pool: &PgPool) -> sqlx::Result<u64> {
        let sizes = sqlx::query!(
            r#"/* sweeper.sizes */
            SELECT pg_relation_size('locks') / 8192 AS "locks!",
                   pg_relation_size('lease_ends') / 8192 AS "lease_ends!",
                   pg_relation_size('lock_members') / 8192 AS "members!",
                   pg_relation_size('lock_tickets') / 8192 AS "tickets!""#
        )
        .fetch_one(pool)
        .await?;
        let mut removed = 0;
        for _ in 0..stretches_per_second(sizes.locks) {
            let (count, lapsed) = sweep_locks(pool, self.locks_block).await?;
            removed += count;
            self.record(lapsed);
            self.record(advance_gates(pool, self.locks_block).await?);
            self.locks_block = next_block(self.locks_block, sizes.locks);
        }
        for _ in 0..stretches_per_second(sizes.lease_ends) {
            sweep_lease_ends(pool, self.lease_ends_block).await?;
            self.lease_ends_block = next_block(self.lease_ends_block, sizes.lease_ends);
        }
        for _ in 0..stretches_per_second(sizes.members) {
            self.record(sweep_members(pool, self.members_block).await?);
            self.members_block = next_block(self.members_block, sizes.members);
        }
        for _ in 0..stretches_per_second(sizes.tickets) {
            sweep_tickets(pool, self.tickets_block).await?;
            self.tickets_block = next_block(self.tickets_block, sizes.tickets);
        }
        sweep_nodes(pool).await?;
        metrics::counter!("lockable_swept_locks_total").increment(removed);
        Ok(removed)
    }

    fn record(&self, lapsed: Vec<LapsedLease>) {
        self.recorder.record(lapsed.into_iter().map(NewEvent::from));
    }
}

fn stretches_per_second(blocks: i64) -> i64 {
    let per_second =
        blocks.div_euclid(STRETCH_BLOCKS * i64::try_from(ROUND.as_secs()).unwrap_or(i64::MAX));
    (per_second + 1).min(20)
}

fn next_block(block: i64, blocks: i64) -> i64 {
    if block + STRETCH_BLOCKS < blocks {
        block + STRETCH_BLOCKS
    } else {
        0
    }
}

/// Returns the number of locks whose rows it removed, and the lapsed leases of private namespaces
/// among them.
async fn sweep_locks(pool: &PgPool, block: i64) -> sqlx::Result<(u64, Vec<LapsedLease>)> {
    let rows = sqlx::query!(
        r#"/* sweeper.locks */
        WITH horizon AS MATERIALIZED (
          SELECT least(clock_timestamp() - interval '1 hour',
                       (SELECT min(xact_start) FROM pg_stat_activity
                         WHERE datname = current_database() AND pid <> pg_backend_pid())
                         - interval '1 minute') AS touched_before
        ), removed AS (
          DELETE FROM locks WHERE ctid = ANY (ARRAY(
            SELECT l.ctid FROM locks l CROSS JOIN lease_clock c
             WHERE l.ctid >= format('(%s,0)', $1::bigint)::tid
               AND l.ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid
               AND l.expires_at < (SELECT touched_before FROM horizon)
               AND NOT l.gated
               -- A lease that an outage protected ended later than it says.
               AND (l.expires_at <= c.outage_start
                    OR c.grace_end < clock_timestamp() - interval '1 hour')
               AND NOT lease_is_live(l.expires_at, l.end_reason,
                                     greatest(l.lease_ms, l.renewed_ms), c.recent_until,
                                     c.open_start, c.outage_start, c.outage_end, c.grace_ms)
               FOR UPDATE OF l SKIP LOCKED))
          RETURNING *
        )
        SELECT (SELECT count(*) FROM removed) AS "removed!", l.namespace_id AS "namespace_id?",
               l.name AS "name?", l.lease_id AS "lease_id?", l.fencing_token AS "fencing_token?",
               l.acquired_at AS "acquired_at?", l.expires_at AS "expires_at?", l.max_hold_ms
          FROM (SELECT 1) one
          LEFT JOIN removed l ON l.namespace_id <> 1 AND l.account_id <> 0
                             AND l.end_reason IN (0, 3, 5)"#,
        block,
        STRETCH_BLOCKS,
    )
    .fetch_all(pool)
    .await?;
    let removed = rows.first().map_or(0, |row| row.removed.unsigned_abs());
    let lapsed = rows.into_iter().filter_map(|row| {
        Some(LapsedLease {
            namespace_id: row.namespace_id?,
            name: row.name?,
            lease_id: row.lease_id?,
            fencing_token: row.fencing_token?,
            acquired_at: row.acquired_at?,
            expires_at: row.expires_at?,
            max_hold_ms: row.max_hold_ms,
        })
    });
    Ok((removed, lapsed.collect()))
}

async fn sweep_lease_ends(pool: &PgPool, block: i64) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "/* sweeper.lease_ends */
        DELETE FROM lease_ends WHERE ctid = ANY (ARRAY(
          SELECT e.ctid FROM lease_ends e
           WHERE e.ctid >= format('(%s,0)', $1::bigint)::tid
             AND e.ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid
             AND e.ended_at < clock_timestamp() - interval '2 hours'
             FOR UPDATE SKIP LOCKED))",
        block,
        STRETCH_BLOCKS,
    )
    .execute(pool)
    .await?;
    Ok(removed.rows_affected())
}

/// Clears the gates of a stretch that nobody may ask about any more: whose leases have ended, and
/// whose waiters have gone. Returns the lapsed leases that it found.
async fn advance_gates(pool: &PgPool, block: i64) -> sqlx::Result<Vec<LapsedLease>> {
    sqlx::query_as!(
        LapsedLease,
        r#"/* sweeper.gates */
        WITH keys AS MATERIALIZED (
          SELECT l.namespace_id, l.name FROM locks l
           WHERE l.ctid >= format('(%s,0)', $1::bigint)::tid
             AND l.ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid
             AND l.gated AND CASE
               WHEN l.end_reason <> 0 THEN true
               WHEN l.account_id <> 0 THEN l.expires_at < clock_timestamp() - interval '5 s'
               ELSE NOT EXISTS (
                 SELECT FROM lock_members m
                  WHERE m.namespace_id = l.namespace_id AND m.name = l.name
                    AND m.end_reason = 0 AND m.expires_at > clock_timestamp()) END
           LIMIT 200 FOR NO KEY UPDATE OF l SKIP LOCKED
        ), arrays AS (
          SELECT count(*)::integer AS length, array_agg(namespace_id) AS namespace_ids,
                 array_agg(name) AS names FROM keys
        )
        SELECT g.namespace_id AS "namespace_id!", g.name AS "name!", g.lease_id AS "lease_id!",
               g.fencing_token AS "fencing_token!", g.acquired_at AS "acquired_at!",
               g.expires_at AS "expires_at!", g.max_hold_ms
          FROM arrays a
          CROSS JOIN LATERAL lock_gate(0, clock_timestamp() + interval '10 s',
            array_fill('advance'::text, ARRAY[a.length]), a.namespace_ids, a.names,
            '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}') g
         WHERE a.length > 0 AND g.outcome IN ('lapsed', 'superseded')"#,
        block,
        STRETCH_BLOCKS,
    )
    .fetch_all(pool)
    .await
}

/// Deletes tickets whose time is over for good, also of locks that are held and so have no visit to
/// their gates. It needs no lock of the gate: nothing is granted to such a ticket, and a request
/// that attaches it again meanwhile keeps it, because the condition is tested under its row's lock.
async fn sweep_tickets(pool: &PgPool, block: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "/* sweeper.tickets */
        DELETE FROM lock_tickets WHERE ctid = ANY (ARRAY(
          SELECT t.ctid FROM lock_tickets t
           WHERE t.ctid >= format('(%s,0)', $1::bigint)::tid
             AND t.ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid
             AND t.claim_token IS NULL AND t.waits_until < clock_timestamp() - interval '30 s'
             FOR UPDATE SKIP LOCKED))",
        block,
        STRETCH_BLOCKS,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Returns the lapsed leases of private namespaces among those whose rows it removed.
async fn sweep_members(pool: &PgPool, block: i64) -> sqlx::Result<Vec<LapsedLease>> {
    sqlx::query_as!(
        LapsedLease,
        "/* sweeper.members */
        WITH removed AS (
          DELETE FROM lock_members WHERE ctid = ANY (ARRAY(
            SELECT m.ctid FROM lock_members m
             WHERE m.ctid >= format('(%s,0)', $1::bigint)::tid
               AND m.ctid < format('(%s,0)', $1::bigint + $2::bigint)::tid
               AND m.end_reason <> 0 AND m.expires_at < clock_timestamp() - interval '1 hour'
               FOR UPDATE SKIP LOCKED))
          RETURNING *
        )
        SELECT namespace_id, name, lease_id, fencing_token, acquired_at, expires_at, max_hold_ms
          FROM removed WHERE namespace_id <> 1 AND end_reason IN (5, 6)",
        block,
        STRETCH_BLOCKS,
    )
    .fetch_all(pool)
    .await
}

/// Forgets nodes that have not looked for an hour and have no tickets.
async fn sweep_nodes(pool: &PgPool) -> sqlx::Result<()> {
    sqlx::query!(
        "/* sweeper.nodes */
        DELETE FROM nodes n
         WHERE n.looked_at < clock_timestamp() - interval '1 hour'
           AND NOT EXISTS (SELECT FROM lock_tickets t WHERE t.node_id = n.node_id)"
    )
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_covers_the_table_and_begins_again() {
        let blocks = 1000;
        let mut block = 0;
        let mut visited = vec![];
        loop {
            visited.push(block);
            block = next_block(block, blocks);
            if block == 0 {
                break;
            }
        }
        assert_eq!(visited, [0, 256, 512, 768]);
        assert_eq!(next_block(0, 0), 0);
    }

    #[test]
    fn a_large_table_is_walked_faster_up_to_a_bound() {
        assert_eq!(stretches_per_second(0), 1);
        assert_eq!(stretches_per_second(256 * 600), 2);
        assert_eq!(stretches_per_second(i64::MAX), 20);
    }
}

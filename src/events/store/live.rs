//! The locks that are watched: their state, and the leases that have lapsed.

use std::sync::Arc;

use sqlx::PgPool;

use crate::events::{LapsedLease, LiveLease, LockState, MOST_LEASES, NewEvent};
use crate::id::NamespaceId;

/// The states of locks, in their order.
///
/// # Errors
/// If the query fails.
pub(in crate::events) async fn states(
    pool: &PgPool,
    locks: &[(NamespaceId, Arc<str>)],
) -> sqlx::Result<Vec<LockState>> {
    let namespace_ids: Vec<i64> = locks.iter().map(|(id, _)| id.0).collect();
    let names: Vec<&str> = locks.iter().map(|(_, name)| &**name).collect();
    let rows = sqlx::query!(
        r#"/* events.states */
        SELECT i.place AS "place!", q.length AS "queue_length!", l.lease_id AS "lease_id?",
               l.fencing_token AS "fencing_token?", l.permits AS "permits?", l.slot AS "slot?",
               l.holder AS "holder?", l.acquired_at AS "acquired_at?",
               l.expires_at AS "expires_at?",
               greatest(0, (extract(epoch FROM l.expires_at - clock_timestamp()) * 1000)::bigint)
                 AS "remaining_ms?"
          FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY i (namespace_id, name, place)
          CROSS JOIN (SELECT * FROM lease_clock LIMIT 1) c
          CROSS JOIN LATERAL (
            SELECT count(*) AS length FROM lock_tickets t
             WHERE t.namespace_id = i.namespace_id AND t.name = i.name AND t.claim_token IS NULL
               AND t.waits_until > clock_timestamp() - interval '20 s'
          ) q
          LEFT JOIN LATERAL (
            SELECT * FROM unended_leases l
             WHERE l.namespace_id = i.namespace_id AND l.name = i.name
               AND lease_is_live(l.expires_at, l.end_reason, l.length_ms, c.recent_until,
                                 c.open_start, c.outage_start, c.outage_end, c.grace_ms)
             ORDER BY l.fencing_token LIMIT $3
          ) l ON true
         ORDER BY i.place, l.fencing_token"#,
        &namespace_ids,
        &names as &[&str],
        MOST_LEASES,
    )
    .fetch_all(pool)
    .await?;
    let mut states = vec![LockState::default(); locks.len()];
    for row in rows {
        let place = usize::try_from(row.place - 1).unwrap_or(usize::MAX);
        let Some(state) = states.get_mut(place) else {
            continue;
        };
        state.queue_length = row.queue_length;
        if let (Some(lease_id), Some(fencing_token), Some(acquired_at), Some(expires_at)) = (
            row.lease_id,
            row.fencing_token,
            row.acquired_at,
            row.expires_at,
        ) {
            state.leases.push(LiveLease {
                lease_id,
                fencing_token,
                permits: row.permits.unwrap_or(1),
                slot: row.slot,
                holder: row.holder,
                acquired_at,
                expires_at,
                remaining_ms: row.remaining_ms.unwrap_or_default(),
            });
        }
    }
    Ok(states)
}

/// Names of a namespace, both ends included.
#[derive(Clone, Debug)]
pub(in crate::events) struct Stretch {
    pub(in crate::events) namespace_id: NamespaceId,
    pub(in crate::events) from: String,
    pub(in crate::events) until: String,
}

/// The most locks of a stretch that are looked at.
pub(in crate::events) const STRETCH_LOCKS: i64 = 2000;

/// The leases that have lapsed, of the first locks of each stretch, and that no event says so of.
/// Whether one has lapsed is decided under its row's lock: a heartbeat may be in its commit. A row
/// that is locked is passed over.
///
/// # Errors
/// If a query fails.
pub(in crate::events) async fn lapsed(
    pool: &PgPool,
    stretches: &[Stretch],
) -> sqlx::Result<Vec<NewEvent>> {
    let namespace_ids: Vec<i64> = stretches.iter().map(|s| s.namespace_id.0).collect();
    let from: Vec<&str> = stretches.iter().map(|s| s.from.as_str()).collect();
    let until: Vec<&str> = stretches.iter().map(|s| s.until.as_str()).collect();
    let of_rows = sqlx::query_as!(
        LapsedLease,
        r#"/* events.lapsed_locks */
        SELECT l.namespace_id, l.name, l.lease_id, l.fencing_token, l.acquired_at, l.expires_at,
               l.max_hold_ms
          FROM (
            SELECT x.* FROM unnest($1::bigint[], $2::text[], $3::text[]) s (id, from_name, until)
              CROSS JOIN LATERAL (
                SELECT x.namespace_id, x.name, x.fencing_token, x.expires_at FROM locks x
                 WHERE x.namespace_id = s.id AND x.name >= s.from_name AND x.name <= s.until
                 ORDER BY x.name LIMIT $4
              ) x
             WHERE x.expires_at < clock_timestamp()
               AND NOT EXISTS (
                 SELECT FROM lock_events e
                  WHERE e.namespace_id = x.namespace_id AND e.name = x.name
                    AND e.fencing_token = x.fencing_token AND e.kind = 3)
          ) x
          CROSS JOIN (SELECT * FROM lease_clock LIMIT 1) c
          JOIN locks l ON l.namespace_id = x.namespace_id AND l.name = x.name
         WHERE l.end_reason IN (0, 3, 5) AND l.account_id <> 0
           AND l.claim_token IS DISTINCT FROM l.fencing_token
           AND NOT lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                                 c.recent_until, c.open_start, c.outage_start, c.outage_end,
                                 c.grace_ms)
           FOR NO KEY UPDATE OF l SKIP LOCKED"#,
        &namespace_ids,
        &from as &[&str],
        &until as &[&str],
        STRETCH_LOCKS,
    )
    .fetch_all(pool)
    .await?;
    let of_members = sqlx::query_as!(
        LapsedLease,
        r#"/* events.lapsed_members */
        SELECT l.namespace_id, l.name, l.lease_id, l.fencing_token, l.acquired_at, l.expires_at,
               l.max_hold_ms
          FROM unnest($1::bigint[], $2::text[], $3::text[]) s (id, from_name, until)
          CROSS JOIN (SELECT * FROM lease_clock LIMIT 1) c
          JOIN lock_members l
               ON l.namespace_id = s.id AND l.name >= s.from_name AND l.name <= s.until
         WHERE l.expires_at < clock_timestamp() AND l.end_reason IN (0, 5, 6)
           AND l.claim_token IS DISTINCT FROM l.fencing_token
           AND NOT EXISTS (
             SELECT FROM lock_events e
              WHERE e.namespace_id = l.namespace_id AND e.name = l.name
                AND e.fencing_token = l.fencing_token AND e.kind = 3)
           AND NOT lease_is_live(l.expires_at, l.end_reason, greatest(l.lease_ms, l.renewed_ms),
                                 c.recent_until, c.open_start, c.outage_start, c.outage_end,
                                 c.grace_ms)
         LIMIT $4 FOR NO KEY UPDATE OF l SKIP LOCKED"#,
        &namespace_ids,
        &from as &[&str],
        &until as &[&str],
        STRETCH_LOCKS,
    )
    .fetch_all(pool)
    .await?;
    let all = of_rows.into_iter().chain(of_members);
    Ok(all.map(NewEvent::from).collect())
}

/// Where a walk goes on: the last of the locks of each stretch that [`lapsed`] looks at. A stretch
/// with fewer locks is not among them. Each with its place.
///
/// # Errors
/// If the query fails.
pub(in crate::events) async fn ends(
    pool: &PgPool,
    stretches: &[Stretch],
) -> sqlx::Result<Vec<(usize, String)>> {
    let namespace_ids: Vec<i64> = stretches.iter().map(|s| s.namespace_id.0).collect();
    let from: Vec<&str> = stretches.iter().map(|s| s.from.as_str()).collect();
    let until: Vec<&str> = stretches.iter().map(|s| s.until.as_str()).collect();
    let rows = sqlx::query!(
        r#"/* events.ends_of_stretches */
        SELECT s.place AS "place!", x.name
          FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY
               s (id, from_name, until, place)
          CROSS JOIN LATERAL (
            SELECT x.name FROM locks x
             WHERE x.namespace_id = s.id AND x.name >= s.from_name AND x.name <= s.until
             ORDER BY x.name OFFSET $4 LIMIT 1
          ) x"#,
        &namespace_ids,
        &from as &[&str],
        &until as &[&str],
        STRETCH_LOCKS - 1,
    )
    .fetch_all(pool)
    .await?;
    let ends = rows.into_iter().filter_map(|row| {
        let place = usize::try_from(row.place - 1).ok()?;
        Some((place, row.name))
    });
    Ok(ends.collect())
}

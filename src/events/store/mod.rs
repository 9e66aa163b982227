//! The events' queries; [`live`] has those about the locks themselves.

pub(super) mod live;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Access, Event, EventKind, EventsError, NewEvent};
use crate::id::NamespaceId;
use crate::plans::Limits;

struct Row {
    event_id: i64,
    namespace_id: i64,
    kind: i16,
    at: DateTime<Utc>,
    name: String,
    lease_id: Option<Uuid>,
    fencing_token: i64,
    holder: Option<String>,
    token_label: Option<String>,
    waited_ms: Option<i32>,
    held_ms: Option<i64>,
    reason: Option<String>,
}

impl From<Row> for Event {
    fn from(row: Row) -> Self {
        // Of a kind that a newer program writes, nothing is known.
        let kind = EventKind::from_number(row.kind).unwrap_or(EventKind::Gap);
        let is_gap = kind == EventKind::Gap;
        Self {
            event_id: row.event_id,
            namespace_id: NamespaceId(row.namespace_id),
            kind,
            at: row.at,
            name: (!is_gap).then_some(row.name),
            lease_id: row.lease_id,
            fencing_token: (!is_gap).then_some(row.fencing_token),
            holder: row.holder,
            token_label: row.token_label,
            waited_ms: row.waited_ms,
            held_ms: row.held_ms,
            reason: row.reason,
        }
    }
}

fn events(rows: Vec<Row>) -> Vec<Event> {
    rows.into_iter().map(Event::from).collect()
}

/// Writes events, and a gap for each namespace that lost some. Returns the number of events that
/// were new: of those that were written before, the first stays.
///
/// # Errors
/// If the database is unavailable, or its answer is lost: then they may have been written.
pub(crate) async fn write(
    pool: &PgPool,
    new: &[NewEvent],
    lost: &BTreeMap<NamespaceId, u64>,
) -> sqlx::Result<u64> {
    let gaps: Vec<NewEvent> = lost
        .iter()
        .map(|(namespace_id, count)| NewEvent {
            namespace_id: *namespace_id,
            name: Arc::from(""),
            kind: EventKind::Gap,
            at: DateTime::UNIX_EPOCH, // the database sets it
            lease_id: None,
            fencing_token: 0,
            token_id: None,
            holder: None,
            waited_ms: None,
            acquired_at: None,
            reason: Some(format!("{count} events were lost here")),
        })
        .collect();
    let all = || new.iter().chain(&gaps);
    let namespace_ids: Vec<i64> = all().map(|event| event.namespace_id.0).collect();
    let names: Vec<&str> = all().map(|event| &*event.name).collect();
    let fencing_tokens: Vec<i64> = all().map(|event| event.fencing_token).collect();
    let kinds: Vec<i16> = all().map(|event| event.kind.number()).collect();
    let ats: Vec<DateTime<Utc>> = all().map(|event| event.at).collect();
    let lease_ids: Vec<Option<Uuid>> = all().map(|event| event.lease_id).collect();
    let token_ids: Vec<Option<i64>> = all().map(|event| event.token_id.map(|id| id.0)).collect();
    let holders: Vec<Option<&str>> = all().map(|event| event.holder.as_deref()).collect();
    let waits: Vec<Option<i32>> = all().map(|event| event.waited_ms).collect();
    let acquired_ats: Vec<Option<DateTime<Utc>>> = all().map(|event| event.acquired_at).collect();
    let reasons: Vec<Option<&str>> = all().map(|event| event.reason.as_deref()).collect();
    let written = sqlx::query_scalar!(
        r#"/* events.write */
        SELECT write_lock_events($1, $2::text[], $3, $4, $5, $6, $7, $8::text[], $9, $10,
                                 $11::text[]) AS "written!""#,
        &namespace_ids,
        &names as &[&str],
        &fencing_tokens,
        &kinds,
        &ats,
        &lease_ids as &[Option<Uuid>],
        &token_ids as &[Option<i64>],
        &holders as &[Option<&str>],
        &waits as &[Option<i32>],
        &acquired_ats as &[Option<DateTime<Utc>>],
        &reasons as &[Option<&str>],
    )
    .fetch_one(pool)
    .await?;
    Ok(u64::try_from(written).unwrap_or_default())
}

/// Writes events at once, for callers that are in no hurry and have no recorder.
///
/// # Errors
/// If the database is unavailable, or its answer is lost.
pub async fn record_now(pool: &PgPool, mut events: Vec<NewEvent>) -> sqlx::Result<()> {
    events.retain(|event| event.namespace_id != NamespaceId::PUBLIC);
    if events.is_empty() {
        return Ok(());
    }
    write(pool, &events, &BTreeMap::new()).await.map(drop)
}

/// The newest event that readers may see: no other gets a place before it any more.
///
/// # Errors
/// If the query fails.
pub(super) async fn settled(pool: &PgPool) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"/* events.settled */ SELECT settled_event_id() AS "settled!""#)
        .fetch_one(pool)
        .await
}

/// The events of a lock, newest first, for as long as the plan keeps them: at most `limit` that are
/// older than the event `before`. The last second is not among them.
///
/// # Errors
/// [`EventsError::Public`], [`EventsError::NotInPlan`], or if a query fails.
pub async fn history(
    pool: &PgPool,
    limits: &Limits,
    namespace_id: NamespaceId,
    name: &str,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Event>, EventsError> {
    if namespace_id == NamespaceId::PUBLIC {
        return Err(EventsError::Public);
    }
    if limits.history_days == 0 {
        return Err(EventsError::NotInPlan);
    }
    let settled = settled(pool).await?;
    let before = before.unwrap_or(i64::MAX).min(settled.saturating_add(1));
    let rows = sqlx::query_as!(
        Row,
        r#"/* events.history */
        SELECT e.event_id AS "event_id!", e.namespace_id AS "namespace_id!", e.kind AS "kind!",
               e.at AS "at!", e.name AS "name!", e.lease_id, e.fencing_token AS "fencing_token!",
               e.holder, e.token_label, e.waited_ms, e.held_ms, e.reason
          FROM unnest(ARRAY[$2::text, '']) n (name)
          CROSS JOIN LATERAL (
            SELECT * FROM lock_events e
             WHERE e.namespace_id = $1 AND e.name = n.name AND e.event_id < $3 AND e.event_id > 0
               AND e.at > clock_timestamp() - $4::integer * interval '1 day'
             ORDER BY e.event_id DESC LIMIT $5
          ) e
         ORDER BY e.event_id DESC LIMIT $5"#,
        namespace_id.0,
        name,
        before,
        limits.history_days,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(events(rows))
}

/// What a watcher has to know to begin.
pub(super) struct Position {
    /// The newest event that readers may see.
    pub(super) settled: i64,
    /// The newest event of all.
    pub(super) last: i64,
    /// The newest event of the namespace that was deleted for its age.
    pub(super) purged: i64,
}

/// `None` if there is no such namespace.
///
/// # Errors
/// If the query fails.
pub(super) async fn position(
    pool: &PgPool,
    namespace_id: NamespaceId,
) -> sqlx::Result<Option<Position>> {
    let settled = settled(pool).await?;
    sqlx::query_as!(
        Position,
        r#"/* events.position */
        SELECT $2::bigint AS "settled!", c.last_event_id AS "last", n.purged_event_id AS "purged"
          FROM namespaces n CROSS JOIN lock_event_counter c WHERE n.namespace_id = $1"#,
        namespace_id.0,
        settled,
    )
    .fetch_optional(pool)
    .await
}

/// The events of several namespaces after one event and up to another, in order: at most `limit`.
///
/// # Errors
/// If the query fails.
pub(super) async fn of_namespaces(
    pool: &PgPool,
    namespace_ids: &[i64],
    after: i64,
    until: i64,
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* events.of_namespaces */
        SELECT e.event_id AS "event_id!", e.namespace_id AS "namespace_id!", e.kind AS "kind!",
               e.at AS "at!", e.name AS "name!", e.lease_id, e.fencing_token AS "fencing_token!",
               e.holder, e.token_label, e.waited_ms, e.held_ms, e.reason
          FROM unnest($1::bigint[]) n (id)
          CROSS JOIN LATERAL (
            SELECT * FROM lock_events e
             WHERE e.namespace_id = n.id AND e.event_id > $2 AND e.event_id <= $3
             ORDER BY e.event_id LIMIT $4
          ) e
         ORDER BY e.event_id LIMIT $4"#,
        namespace_ids,
        after,
        until,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(events(rows))
}

/// As [`of_namespaces`], of one lock, with the gaps of its namespace.
///
/// # Errors
/// If the query fails.
pub(super) async fn of_lock(
    pool: &PgPool,
    namespace_id: NamespaceId,
    name: &str,
    after: i64,
    until: i64,
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    let rows = sqlx::query_as!(
        Row,
        r#"/* events.of_lock */
        SELECT e.event_id AS "event_id!", e.namespace_id AS "namespace_id!", e.kind AS "kind!",
               e.at AS "at!", e.name AS "name!", e.lease_id, e.fencing_token AS "fencing_token!",
               e.holder, e.token_label, e.waited_ms, e.held_ms, e.reason
          FROM unnest(ARRAY[$2::text, '']) n (name)
          CROSS JOIN LATERAL (
            SELECT * FROM lock_events e
             WHERE e.namespace_id = $1 AND e.name = n.name AND e.event_id > $3
               AND e.event_id <= $4 AND e.event_id > 0
             ORDER BY e.event_id LIMIT $5
          ) e
         ORDER BY e.event_id LIMIT $5"#,
        namespace_id.0,
        name,
        after,
        until,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(events(rows))
}

/// Which of these accesses have ended: the account is suspended, being deleted or without the
/// namespace, or the token is revoked, expired or not for it. Returns their places.
///
/// # Errors
/// If the query fails.
pub(super) async fn refused(
    pool: &PgPool,
    accesses: &[(NamespaceId, Access)],
) -> sqlx::Result<Vec<usize>> {
    let namespace_ids: Vec<i64> = accesses.iter().map(|(id, _)| id.0).collect();
    let account_ids: Vec<i64> = accesses.iter().map(|(_, a)| a.account_id.0).collect();
    let token_ids: Vec<Option<i64>> = accesses
        .iter()
        .map(|(_, access)| access.token_id.map(|id| id.0))
        .collect();
    let places = sqlx::query_scalar!(
        r#"/* events.refused */
        SELECT i.place AS "place!"
          FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY
               i (namespace_id, account_id, token_id, place)
         WHERE NOT EXISTS (
                 SELECT FROM namespaces n JOIN accounts a USING (account_id)
                  WHERE n.namespace_id = i.namespace_id AND a.account_id = i.account_id
                    AND a.suspended_at IS NULL AND a.deleting_since IS NULL)
            OR i.token_id IS NOT NULL AND NOT EXISTS (
                 SELECT FROM api_tokens t
                  WHERE t.token_id = i.token_id AND t.account_id = i.account_id
                    AND t.revoked_at IS NULL
                    AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())
                    AND (t.namespace_id = i.namespace_id OR t.scope = 'manage'))"#,
        &namespace_ids,
        &account_ids,
        &token_ids as &[Option<i64>],
    )
    .fetch_all(pool)
    .await?;
    let place = |place: i64| usize::try_from(place - 1).ok();
    Ok(places.into_iter().filter_map(place).collect())
}

/// Deletes the oldest events of a namespace that are past their time, at most `most`; of a
/// namespace that is no more, any. Returns their number.
///
/// # Errors
/// If the query fails.
pub(super) async fn purge(pool: &PgPool, namespace_id: i64, most: i64) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"/* events.purge */
        WITH deleted AS (
          DELETE FROM lock_events WHERE ctid = ANY (ARRAY(
            SELECT e.ctid FROM (
              SELECT e.ctid, e.at FROM lock_events e WHERE e.namespace_id = $1
               ORDER BY e.event_id LIMIT $2 FOR UPDATE SKIP LOCKED
            ) e
             WHERE e.at < coalesce(clock_timestamp() - event_retention($1), 'infinity')))
          RETURNING event_id
        ), noted AS (
          UPDATE namespaces n SET purged_event_id = d.event_id
            FROM (SELECT max(event_id) AS event_id FROM deleted) d
           WHERE n.namespace_id = $1 AND n.purged_event_id < d.event_id
        )
        SELECT count(*) AS "count!" FROM deleted"#,
        namespace_id,
        most,
    )
    .fetch_one(pool)
    .await
}

/// The next namespace that has events, in the order of ids.
///
/// # Errors
/// If the query fails.
pub(super) async fn next_namespace(pool: &PgPool, after: i64) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        "/* events.next_namespace */
        SELECT namespace_id FROM lock_events WHERE namespace_id > $1
         ORDER BY namespace_id LIMIT 1",
        after,
    )
    .fetch_optional(pool)
    .await
}

//! The statements that decide about leases. Each is about many locks at once and is a transaction
//! of its own.
//!
//! [`acquire`], [`heartbeat`] and [`release`] have one shape, in four named steps, and every word
//! of it is there because its absence went wrong (ADR 3):
//!
//! 1. `asked`: look at the row of each key, by primary key whatever the statistics say (a lateral
//!    look that cannot be flattened into another join: its `LIMIT 1` also keeps the planner from
//!    taking a batch for millions of rows), and say whether its lease lives
//!    ([`lease_is_live`](../../migrations) is the one definition of that).
//! 2. `judged`: refuse what cannot succeed, without writing: no row lock, no transaction id, no
//!    flush.
//! 3. `written`: try the rest, in key order, by an upsert, which has no plan to choose and so
//!    cannot leave its index. It decides *again*, under the row lock and on the clock of that
//!    instant, and only where the row still carries the grant that was looked at: its
//!    `fencing_token` is the `seen_token`. Every grant draws a new one, so nothing that was decided
//!    on in step 1 (which lease, whose, what is known to have ended) can have changed. The clock is
//!    read in `SET`, after the wait for the row. A row that the sweeper deleted meanwhile is
//!    inserted anew, with a fencing token of its own.
//! 4. `ended`: remember the leases with ids of their clients' choosing that this statement ended,
//!    in the same transaction. Which keys were written is asked through `CASE WHEN … IN (SELECT
//!    …)`, which is hashed and looked at last: as a join it was planned as one scan of the batch
//!    for each key of the batch once the statistics said so, and took most of the statement's time.
//!
//! A key with no verdict lost a race between 2 and 3, and is asked again by the caller; it is never
//! answered "no".
//!
//! [`acquire_new`] stands beside [`acquire`], for locks that most likely have no row: without the
//! look, and so for two thirds of its cost.
//!
//! Callers give each key once, in ascending order: rows are locked in that order by every node. The
//! arrays are unfolded in a `SELECT`: as functions in `FROM` each would be stored whole before the
//! first row comes out, a twentieth of the time.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, Lease, LockKey, Lost, Release,
    ReleaseOutcome,
};

/// A grant that waited for another transaction on a new row was written before the wait, not after
/// it: asked again (and so renewed) if it is short by more than this, milliseconds.
const SHORT_BY_MS: i64 = 100;

/// Whether a lease that was written then is as long as was asked for, milliseconds.
fn is_as_long(expires_at: DateTime<Utc>, written_at: DateTime<Utc>, asked_ms: i32) -> bool {
    (expires_at - written_at).num_milliseconds() >= i64::from(asked_ms) - SHORT_BY_MS
}

/// A row of an answer. The three statements that look first answer in one form.
struct Answer {
    namespace_id: i64,
    name: String,
    verdict: String,
    lease_id: Option<Uuid>,
    fencing_token: Option<i64>,
    acquired_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    lease_ms: Option<i32>,
    /// The length that was asked for now, milliseconds.
    renewed_ms: Option<i32>,
    /// When the row was written.
    written_at: Option<DateTime<Utc>>,
}

impl Answer {
    fn key(&self) -> (i64, &str) {
        (self.namespace_id, &self.name)
    }

    fn lease(&self) -> Option<Lease> {
        Some(Lease {
            lease_id: self.lease_id?,
            fencing_token: self.fencing_token?,
            expires_in_ms: self.renewed_ms?,
            lease_ms: self.lease_ms?,
            acquired_at: self.acquired_at?,
            expires_at: self.expires_at?,
        })
    }

    fn lost(&self) -> Option<Lost> {
        match self.verdict.as_str() {
            "expired" => Some(Lost::Expired),
            "released" => Some(Lost::Released),
            "broken" => Some(Lost::Broken),
            "superseded" => Some(Lost::Superseded),
            "unproved" => Some(Lost::Unproved),
            "unknown" => Some(Lost::Unknown),
            _ => None,
        }
    }
}

/// Puts answers, which come in any order, to the questions, which are in key order.
fn in_order<Q, A, T>(
    questions: &[&Q],
    key: impl Fn(&Q) -> &LockKey,
    answers: Vec<A>,
    key_of: impl Fn(&A) -> (i64, &str),
    read: impl Fn(&Q, A) -> Option<T>,
) -> Vec<Option<T>> {
    let mut verdicts: Vec<Option<T>> = questions.iter().map(|_| None).collect();
    for answer in answers {
        let of = key_of(&answer);
        let found = questions.binary_search_by(|question| {
            let key = key(question);
            (key.namespace_id.0, key.name.as_str()).cmp(&of)
        });
        if let Ok(at) = found {
            // Of a lock that was taken over there is a row about the lease before, too, which is no
            // verdict.
            verdicts[at] = read(questions[at], answer).or(verdicts[at].take());
        }
    }
    verdicts
}

/// Acquires, column by column, as the statements take them.
struct Acquires<'a> {
    namespace_ids: Vec<i64>,
    names: Vec<&'a str>,
    account_ids: Vec<i64>,
    token_ids: Vec<i64>,
    lease_ids: Vec<Uuid>,
    needs_proof: Vec<bool>,
    lease_ms: Vec<i32>,
    holders: Vec<Option<&'a str>>,
    metadata: Vec<Option<&'a Value>>,
}

impl<'a> Acquires<'a> {
    fn of(questions: &[&'a Acquire]) -> Self {
        Self {
            namespace_ids: questions.iter().map(|q| q.key.namespace_id.0).collect(),
            names: questions.iter().map(|q| q.key.name.as_str()).collect(),
            account_ids: questions.iter().map(|q| q.account_id.0).collect(),
            token_ids: questions.iter().map(|q| q.token_id.0).collect(),
            lease_ids: questions.iter().map(|q| q.lease_id).collect(),
            needs_proof: questions.iter().map(|q| q.needs_proof).collect(),
            lease_ms: questions.iter().map(|q| q.lease_ms).collect(),
            holders: questions.iter().map(|q| q.holder.as_deref()).collect(),
            metadata: questions.iter().map(|q| q.metadata.as_ref()).collect(),
        }
    }
}

/// Grants each lock that is free, and renews each lease whose own id asks again.
/// Answers are in the order of the questions; none: lost a race, ask again.
///
/// # Errors
/// Where the database cannot be asked, or the answer is lost: then nothing is known.
pub async fn acquire(
    connection: &mut PgConnection,
    questions: &[&Acquire],
) -> sqlx::Result<Vec<Option<AcquireOutcome>>> {
    let q = Acquires::of(questions);
    let requested_ms: Vec<Option<i32>> = questions.iter().map(|q| q.requested_ms).collect();
    let answers = sqlx::query_as!(
        Answer,
        r#"/* locks.acquire */
        WITH clock AS MATERIALIZED (SELECT * FROM lease_clock LIMIT 1),
        asked AS (
          SELECT i.*, l.fencing_token AS seen_token, l.lease_ms AS seen_lease_ms, l.account_id AS seen_account_id,
                 l.lease_id AS seen_lease_id, l.needs_proof AS seen_needs_proof, l.end_reason = 0 AS seen_unended, e.ended,
                 l.lease_id = i.lease_id AND l.account_id = i.account_id AS is_own,
                 lease_is_live(l.expires_at, l.end_reason, l.lease_ms, c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms) AS live
            FROM (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name, unnest($3::bigint[]) AS account_id,
                         unnest($4::bigint[]) AS token_id, unnest($5::uuid[]) AS lease_id, unnest($6::boolean[]) AS needs_proof,
                         unnest($7::integer[]) AS lease_ms, unnest($8::integer[]) AS requested_ms, unnest($9::text[]) AS holder,
                         unnest($10::jsonb[]) AS metadata) i
            CROSS JOIN clock c
            LEFT JOIN LATERAL (SELECT * FROM locks l WHERE l.namespace_id = i.namespace_id AND l.name = i.name LIMIT 1) l ON true
            LEFT JOIN LATERAL (SELECT true AS ended FROM lease_ends e
                                WHERE i.needs_proof AND e.account_id = i.account_id AND e.lease_id = i.lease_id LIMIT 1) e ON true
        ), judged AS MATERIALIZED (
          SELECT asked.*, CASE WHEN is_own AND live THEN 'try'
                               WHEN ended THEN 'ended'
                               WHEN seen_token IS NULL THEN 'try'
                               WHEN is_own THEN 'ended'
                               WHEN live THEN 'held'
                               ELSE 'try' END AS verdict
            FROM asked
        ), written AS (
          INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, seen_token, acquired_at, expires_at, lease_id, lease_ms,
                                  needs_proof, holder, metadata)
          SELECT namespace_id, name, account_id, token_id, nextval('lock_fence'), seen_token, clock_timestamp(),
                 clock_timestamp() + lease_ms * interval '1 ms', lease_id,
                 CASE WHEN is_own THEN coalesce(requested_ms, seen_lease_ms) ELSE lease_ms END, needs_proof, holder, metadata
            FROM judged WHERE verdict = 'try' ORDER BY namespace_id, name COLLATE "C"
          ON CONFLICT (namespace_id, name) DO UPDATE SET
            expires_at = clock_timestamp() + excluded.lease_ms * interval '1 ms',
            account_id = excluded.account_id, token_id = excluded.token_id, lease_id = excluded.lease_id,
            needs_proof = excluded.needs_proof, holder = excluded.holder, metadata = excluded.metadata, end_reason = 0,
            fencing_token = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                                 THEN l.fencing_token ELSE nextval('lock_fence') END,
            acquired_at = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                               THEN l.acquired_at ELSE clock_timestamp() END,
            lease_ms = CASE WHEN l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id
                            THEN l.lease_ms ELSE excluded.lease_ms END
          WHERE l.fencing_token = excluded.seen_token
            AND (l.lease_id = excluded.lease_id AND l.account_id = excluded.account_id) = lease_is_live(l.expires_at, l.end_reason, l.lease_ms,
                  (SELECT recent_until FROM clock), (SELECT open_start FROM clock), (SELECT outage_start FROM clock),
                  (SELECT outage_end FROM clock), (SELECT grace_ms FROM clock))
          RETURNING l.namespace_id, l.name, l.lease_id, l.fencing_token, l.acquired_at, l.expires_at, l.lease_ms, clock_timestamp() AS written_at
        ), ended AS (
          INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
          SELECT seen_account_id, seen_lease_id, namespace_id, name, clock_timestamp(), 3
            FROM judged
           WHERE verdict = 'try' AND seen_unended AND seen_needs_proof AND NOT is_own
             AND CASE WHEN (namespace_id, name) IN (SELECT namespace_id, name FROM written) THEN true END
           ORDER BY 1, 2
          ON CONFLICT DO NOTHING
        )
        SELECT namespace_id AS "namespace_id!", name AS "name!", 'granted' AS "verdict!", lease_id, fencing_token, acquired_at, expires_at,
               lease_ms, NULL::integer AS renewed_ms, written_at FROM written
        UNION ALL
        SELECT namespace_id, name, verdict, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM judged WHERE verdict <> 'try'
        UNION ALL
        SELECT namespace_id, name, 'lapsed', NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM judged
         WHERE verdict = 'try' AND seen_unended AND NOT is_own"#,
        &q.namespace_ids,
        &q.names as &[&str],
        &q.account_ids,
        &q.token_ids,
        &q.lease_ids,
        &q.needs_proof,
        &q.lease_ms,
        &requested_ms as &[Option<i32>],
        &q.holders as &[Option<&str>],
        &q.metadata as &[Option<&Value>],
    )
    .fetch_all(connection)
    .await?;
    let expiries = answers
        .iter()
        .filter(|answer| answer.verdict == "lapsed")
        .count();
    metrics::counter!("lockable_expiries_total").increment(expiries as u64);
    Ok(in_order(
        questions,
        |question| &question.key,
        answers,
        Answer::key,
        |question, mut answer| match answer.verdict.as_str() {
            "granted" => {
                // A grant is as long as was asked; a repetition renews by the length granted,
                // unless the request has its own.
                let renewed_ms = question.requested_ms.or(answer.lease_ms)?;
                answer.renewed_ms = Some(renewed_ms);
                is_as_long(answer.expires_at?, answer.written_at?, renewed_ms)
                    .then(|| answer.lease().map(AcquireOutcome::Granted))?
            }
            "held" => Some(AcquireOutcome::Held),
            "ended" => Some(AcquireOutcome::LeaseEnded),
            _ => None,
        },
    ))
}

/// Grants each lock that has no row, for two thirds of what [`acquire`] costs PostgreSQL: nothing
/// is looked at first, and an insert that meets a row leaves it alone. Answers are in the order of
/// the questions; none: there is a row, or there was one a moment ago, and [`acquire`] decides.
///
/// Where [`acquire`] finds no row it does the same: a lock without one is free, unless the lease's
/// id is known to have ended (P6).
///
/// # Errors
/// As [`acquire`].
pub async fn acquire_new(
    connection: &mut PgConnection,
    questions: &[&Acquire],
) -> sqlx::Result<Vec<Option<AcquireOutcome>>> {
    let q = Acquires::of(questions);
    let granted = sqlx::query!(
        r#"/* locks.acquire_new */
        INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, acquired_at, expires_at, lease_id, lease_ms,
                                needs_proof, holder, metadata)
        SELECT i.namespace_id, i.name, i.account_id, i.token_id, nextval('lock_fence'), clock_timestamp(),
               clock_timestamp() + i.lease_ms * interval '1 ms', i.lease_id, i.lease_ms, i.needs_proof, i.holder, i.metadata
          FROM (SELECT FROM service_clock LIMIT 1) c
          CROSS JOIN (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name, unnest($3::bigint[]) AS account_id,
                             unnest($4::bigint[]) AS token_id, unnest($5::uuid[]) AS lease_id, unnest($6::boolean[]) AS needs_proof,
                             unnest($7::integer[]) AS lease_ms, unnest($8::text[]) AS holder, unnest($9::jsonb[]) AS metadata) i
          LEFT JOIN LATERAL (SELECT true AS ended FROM lease_ends e
                              WHERE i.needs_proof AND e.account_id = i.account_id AND e.lease_id = i.lease_id LIMIT 1) e ON true
         WHERE e.ended IS NULL ORDER BY i.namespace_id, i.name COLLATE "C"
        ON CONFLICT (namespace_id, name) DO NOTHING
        RETURNING l.namespace_id, l.name, l.fencing_token, l.acquired_at, l.expires_at, clock_timestamp() AS "written_at!""#,
        &q.namespace_ids,
        &q.names as &[&str],
        &q.account_ids,
        &q.token_ids,
        &q.lease_ids,
        &q.needs_proof,
        &q.lease_ms,
        &q.holders as &[Option<&str>],
        &q.metadata as &[Option<&Value>],
    )
    .fetch_all(connection)
    .await?;
    Ok(in_order(
        questions,
        |question| &question.key,
        granted,
        |row| (row.namespace_id, row.name.as_str()),
        |question, row| {
            let lease = Lease {
                lease_id: question.lease_id,
                fencing_token: row.fencing_token,
                expires_in_ms: question.lease_ms,
                lease_ms: question.lease_ms,
                acquired_at: row.acquired_at,
                expires_at: row.expires_at,
            };
            is_as_long(row.expires_at, row.written_at, question.lease_ms)
                .then_some(AcquireOutcome::Granted(lease))
        },
    ))
}

/// Renews each lease that lives and is the account's: by its id, or without one where it needs
/// none. Answers are in the order of the questions; none: lost a race, ask again.
///
/// # Errors
/// Where the database cannot be asked, or the answer is lost: then nothing is known, and asking
/// again is safe.
pub async fn heartbeat(
    connection: &mut PgConnection,
    questions: &[&Heartbeat],
) -> sqlx::Result<Vec<Option<HeartbeatOutcome>>> {
    let namespace_ids: Vec<i64> = questions.iter().map(|q| q.key.namespace_id.0).collect();
    let names: Vec<&str> = questions.iter().map(|q| q.key.name.as_str()).collect();
    let account_ids: Vec<i64> = questions.iter().map(|q| q.account_id.0).collect();
    let lease_ids: Vec<Option<Uuid>> = questions.iter().map(|q| q.lease_id).collect();
    let requested_ms: Vec<Option<i32>> = questions.iter().map(|q| q.lease_ms).collect();
    let answers = sqlx::query_as!(
        Answer,
        r#"/* locks.heartbeat */
        WITH clock AS MATERIALIZED (SELECT * FROM lease_clock LIMIT 1),
        asked AS (
          SELECT i.namespace_id, i.name, i.account_id, i.lease_id AS proof, i.requested_ms, e.reason AS ended,
                 l.account_id AS seen_account_id, l.token_id, l.fencing_token, l.lease_id, l.lease_ms, l.needs_proof, l.end_reason,
                 lease_is_live(l.expires_at, l.end_reason, l.lease_ms, c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms) AS live
            FROM (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name, unnest($3::bigint[]) AS account_id,
                         unnest($4::uuid[]) AS lease_id, unnest($5::integer[]) AS requested_ms) i
            CROSS JOIN clock c
            LEFT JOIN LATERAL (SELECT * FROM locks l WHERE l.namespace_id = i.namespace_id AND l.name = i.name LIMIT 1) l ON true
            LEFT JOIN LATERAL (SELECT e.reason FROM lease_ends e
                                WHERE (l.lease_id, l.account_id) IS DISTINCT FROM (i.lease_id, i.account_id) AND e.account_id = i.account_id AND e.lease_id = i.lease_id
                                  AND e.namespace_id = i.namespace_id AND e.name = i.name LIMIT 1) e ON true
        ), judged AS MATERIALIZED (
          SELECT asked.*, CASE WHEN ended = 1 THEN 'released' WHEN ended = 2 THEN 'broken'
                               WHEN ended = 3 THEN CASE WHEN lease_id IS NULL THEN 'expired' ELSE 'superseded' END
                               WHEN seen_account_id = account_id AND (proof = lease_id OR proof IS NULL)
                                 THEN CASE WHEN proof IS NULL AND needs_proof THEN CASE WHEN live THEN 'unproved' ELSE 'unknown' END
                                           WHEN live THEN 'try' WHEN end_reason = 1 THEN 'released' WHEN end_reason = 2 THEN 'broken'
                                           ELSE 'expired' END
                               ELSE 'unknown' END AS verdict
            FROM asked
        ), written AS (
          -- The proposed row is never inserted: the row is there, and rows of live leases are not deleted. If it were, it would be an ended one.
          INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, acquired_at, expires_at, lease_id, lease_ms,
                                  end_reason, needs_proof)
          SELECT namespace_id, name, account_id, token_id, fencing_token, 'epoch', 'epoch', lease_id, coalesce(requested_ms, lease_ms), 1, false
            FROM judged WHERE verdict = 'try' ORDER BY namespace_id, name COLLATE "C"
          ON CONFLICT (namespace_id, name) DO UPDATE SET expires_at = clock_timestamp() + excluded.lease_ms * interval '1 ms'
          WHERE l.fencing_token = excluded.fencing_token
            AND lease_is_live(l.expires_at, l.end_reason, l.lease_ms,
                  (SELECT recent_until FROM clock), (SELECT open_start FROM clock), (SELECT outage_start FROM clock),
                  (SELECT outage_end FROM clock), (SELECT grace_ms FROM clock))
          RETURNING l.namespace_id, l.name, l.lease_id, l.fencing_token, l.acquired_at, l.expires_at, l.lease_ms, l.end_reason
        )
        SELECT namespace_id AS "namespace_id!", name AS "name!", 'renewed' AS "verdict!", lease_id, fencing_token, acquired_at, expires_at,
               lease_ms, NULL::integer AS renewed_ms, NULL::timestamptz AS written_at FROM written WHERE end_reason = 0
        UNION ALL
        SELECT namespace_id, name, verdict, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM judged WHERE verdict <> 'try'"#,
        &namespace_ids,
        &names as &[&str],
        &account_ids,
        &lease_ids as &[Option<Uuid>],
        &requested_ms as &[Option<i32>],
    )
    .fetch_all(connection)
    .await?;
    Ok(in_order(
        questions,
        |question| &question.key,
        answers,
        Answer::key,
        |question, mut answer| match answer.verdict.as_str() {
            "renewed" => {
                answer.renewed_ms = question.lease_ms.or(answer.lease_ms);
                answer.lease().map(HeartbeatOutcome::Renewed)
            }
            _ => answer.lost().map(HeartbeatOutcome::Lost),
        },
    ))
}

/// Ends each lease that lives and is the account's: by its id, or without one where it needs none.
/// The row stays. Answers are in the order of the questions; none: lost a race, ask again.
///
/// # Errors
/// Where the database cannot be asked, or the answer is lost: then nothing is known, and with a
/// lease id asking again is safe.
pub async fn release(
    connection: &mut PgConnection,
    questions: &[&Release],
) -> sqlx::Result<Vec<Option<ReleaseOutcome>>> {
    let namespace_ids: Vec<i64> = questions.iter().map(|q| q.key.namespace_id.0).collect();
    let names: Vec<&str> = questions.iter().map(|q| q.key.name.as_str()).collect();
    let account_ids: Vec<i64> = questions.iter().map(|q| q.account_id.0).collect();
    let lease_ids: Vec<Option<Uuid>> = questions.iter().map(|q| q.lease_id).collect();
    let answers = sqlx::query_as!(
        Answer,
        r#"/* locks.release */
        WITH clock AS MATERIALIZED (SELECT * FROM lease_clock LIMIT 1),
        asked AS (
          SELECT i.namespace_id, i.name, i.account_id, i.lease_id AS proof, e.reason AS ended,
                 l.account_id AS seen_account_id, l.token_id, l.fencing_token, l.lease_id, l.lease_ms, l.needs_proof, l.end_reason,
                 lease_is_live(l.expires_at, l.end_reason, l.lease_ms, c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms) AS live
            FROM (SELECT unnest($1::bigint[]) AS namespace_id, unnest($2::text[]) AS name, unnest($3::bigint[]) AS account_id,
                         unnest($4::uuid[]) AS lease_id) i
            CROSS JOIN clock c
            LEFT JOIN LATERAL (SELECT * FROM locks l WHERE l.namespace_id = i.namespace_id AND l.name = i.name LIMIT 1) l ON true
            LEFT JOIN LATERAL (SELECT e.reason FROM lease_ends e
                                WHERE (l.lease_id, l.account_id) IS DISTINCT FROM (i.lease_id, i.account_id) AND e.account_id = i.account_id AND e.lease_id = i.lease_id
                                  AND e.namespace_id = i.namespace_id AND e.name = i.name LIMIT 1) e ON true
        ), judged AS MATERIALIZED (
          SELECT asked.*, CASE WHEN ended = 1 THEN 'released' WHEN ended = 2 THEN 'broken'
                               WHEN ended = 3 THEN CASE WHEN lease_id IS NULL THEN 'expired' ELSE 'superseded' END
                               WHEN seen_account_id = account_id AND (proof = lease_id OR proof IS NULL)
                                 THEN CASE WHEN proof IS NULL AND needs_proof THEN CASE WHEN live THEN 'unproved' ELSE 'unknown' END
                                           WHEN live THEN 'try' WHEN end_reason = 1 THEN 'released' WHEN end_reason = 2 THEN 'broken'
                                           ELSE 'expired' END
                               ELSE 'unknown' END AS verdict
            FROM asked
        ), written AS (
          -- As in locks.heartbeat, the proposed row is never inserted.
          INSERT INTO locks AS l (namespace_id, name, account_id, token_id, fencing_token, acquired_at, expires_at, lease_id, lease_ms,
                                  end_reason, needs_proof)
          SELECT namespace_id, name, account_id, token_id, fencing_token, 'epoch', 'epoch', lease_id, lease_ms, 1, needs_proof
            FROM judged WHERE verdict = 'try' ORDER BY namespace_id, name COLLATE "C"
          ON CONFLICT (namespace_id, name) DO UPDATE SET expires_at = clock_timestamp(), end_reason = 1
          WHERE l.fencing_token = excluded.fencing_token
            AND lease_is_live(l.expires_at, l.end_reason, l.lease_ms,
                  (SELECT recent_until FROM clock), (SELECT open_start FROM clock), (SELECT outage_start FROM clock),
                  (SELECT outage_end FROM clock), (SELECT grace_ms FROM clock))
          RETURNING l.namespace_id, l.name, l.lease_id, l.expires_at
        ), ended AS (
          INSERT INTO lease_ends (account_id, lease_id, namespace_id, name, ended_at, reason)
          SELECT account_id, lease_id, namespace_id, name, clock_timestamp(), 1
            FROM judged
           WHERE verdict = 'try' AND (needs_proof OR proof IS NOT NULL)
             AND CASE WHEN (namespace_id, name) IN (SELECT namespace_id, name FROM written) THEN true END
           ORDER BY 1, 2
          ON CONFLICT DO NOTHING
        )
        SELECT namespace_id AS "namespace_id!", name AS "name!", 'done' AS "verdict!", lease_id, NULL::bigint AS fencing_token,
               NULL::timestamptz AS acquired_at, expires_at, NULL::integer AS lease_ms, NULL::integer AS renewed_ms, NULL::timestamptz AS written_at
          FROM written
        UNION ALL
        SELECT namespace_id, name, verdict, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM judged WHERE verdict <> 'try'"#,
        &namespace_ids,
        &names as &[&str],
        &account_ids,
        &lease_ids as &[Option<Uuid>],
    )
    .fetch_all(connection)
    .await?;
    Ok(in_order(
        questions,
        |question| &question.key,
        answers,
        Answer::key,
        |question, answer| match answer.verdict.as_str() {
            "done" => Some(ReleaseOutcome::Released),
            // Sent again after a lost answer: it did it (P6).
            "released" if question.lease_id.is_some() => Some(ReleaseOutcome::Released),
            _ => answer.lost().map(ReleaseOutcome::Lost),
        },
    ))
}

//! The sessions' queries.

use serde_json::json;
use sqlx::{PgExecutor, PgPool};

use super::{ABSOLUTE, IDLE, NewSession, SessionHash, SessionInfo};
use crate::activity::{self, Action, Author};
use crate::audit::Means;
use crate::id::AccountId;

/// Begins a session, which is a sign-in. Returns `false` if there is one of that id already.
///
/// # Errors
/// If the database query fails, or the account is deleted.
pub async fn create(db: &PgPool, session: NewSession<'_>) -> Result<bool, sqlx::Error> {
    let mut transaction = db.begin().await?;
    let user_agent = session.user_agent.map(|text| cut(text, 512));
    let client_ip = session.client_ip.map(|ip| ip.to_canonical().to_string());
    let done = sqlx::query!(
        r#"/* sessions.create */
        INSERT INTO sessions (session_sha256, account_id, data, address, user_agent, expires_at)
        VALUES ($1, $2, $3, $4::text::inet, $5, clock_timestamp() + make_interval(secs => $6))
        ON CONFLICT (session_sha256) DO NOTHING"#,
        &session.hash.0[..],
        session.account_id.0,
        session.data,
        client_ip,
        user_agent,
        IDLE.num_seconds() as f64,
    )
    .execute(&mut *transaction)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let author = Author {
        account_id: Some(session.account_id),
        means: Means::Browser,
        client_ip: session.client_ip,
    };
    let act = activity::Act {
        action: Action::SignIn,
        subject: None,
        details: user_agent.map(|user_agent| json!({"user_agent": user_agent})),
    };
    activity::record(&mut transaction, session.account_id, author, act).await?;
    transaction.commit().await?;
    Ok(true)
}

/// The data of a session that has not ended, else `None`. Sets the time at which it was last seen,
/// at most once a minute.
///
/// # Errors
/// If the database query fails.
pub async fn load(
    db: &PgPool,
    hash: SessionHash,
) -> Result<Option<serde_json::Value>, sqlx::Error> {
    let found = sqlx::query!(
        r#"/* sessions.load */
        SELECT data, last_seen_at < clock_timestamp() - interval '1 min' AS "note_it!"
          FROM sessions WHERE session_sha256 = $1 AND expires_at > clock_timestamp()"#,
        &hash.0[..],
    )
    .fetch_optional(db)
    .await?;
    let Some(found) = found else { return Ok(None) };
    if found.note_it {
        sqlx::query!(
            r#"/* sessions.seen */
            UPDATE sessions SET last_seen_at = clock_timestamp(),
                   expires_at = least(created_at + make_interval(secs => $3),
                                      clock_timestamp() + make_interval(secs => $2))
             WHERE session_sha256 = $1 AND expires_at > clock_timestamp()"#,
            &hash.0[..],
            IDLE.num_seconds() as f64,
            ABSOLUTE.num_seconds() as f64,
        )
        .execute(db)
        .await?;
    }
    Ok(Some(found.data))
}

/// Changes the data of a session. Returns `false` if it has ended meanwhile.
///
/// # Errors
/// If the database query fails.
pub async fn save(
    db: &PgPool,
    hash: SessionHash,
    data: &serde_json::Value,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "/* sessions.save */
        UPDATE sessions SET data = $2
         WHERE session_sha256 = $1 AND expires_at > clock_timestamp()",
        &hash.0[..],
        data,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a session of any account, for signing out.
///
/// # Errors
/// If the database query fails.
pub async fn delete(db: &PgPool, hash: SessionHash) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "/* sessions.delete */ DELETE FROM sessions WHERE session_sha256 = $1",
        &hash.0[..]
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The sessions of an account that have not ended, the last seen first.
///
/// # Errors
/// If the database query fails.
pub async fn list(db: &PgPool, account_id: AccountId) -> Result<Vec<SessionInfo>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"/* sessions.list */
        SELECT session_sha256, created_at, last_seen_at, host(address) AS client_ip, user_agent
          FROM sessions WHERE account_id = $1 AND expires_at > clock_timestamp()
         ORDER BY last_seen_at DESC LIMIT 200"#,
        account_id.0,
    )
    .fetch_all(db)
    .await?;
    let sessions = rows.into_iter().filter_map(|row| {
        Some(SessionInfo {
            // The table's CHECK makes it 32 bytes.
            hash: SessionHash(row.session_sha256.try_into().ok()?),
            created_at: row.created_at,
            last_seen_at: row.last_seen_at,
            client_ip: row.client_ip,
            user_agent: row.user_agent,
        })
    });
    Ok(sessions.collect())
}

/// Ends one session of an account. Returns `false` if the account has none of that hash.
///
/// # Errors
/// If the database query fails.
pub async fn end(
    db: &PgPool,
    account_id: AccountId,
    hash: SessionHash,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "/* sessions.end */ DELETE FROM sessions WHERE account_id = $1 AND session_sha256 = $2",
        account_id.0,
        &hash.0[..],
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends every session of an account but `keep`, and returns how many. Takes a transaction too.
///
/// # Errors
/// If the database query fails.
pub async fn end_all_but(
    db: impl PgExecutor<'_>,
    account_id: AccountId,
    keep: Option<SessionHash>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "/* sessions.end_all_but */
        DELETE FROM sessions WHERE account_id = $1 AND session_sha256 IS DISTINCT FROM $2",
        account_id.0,
        keep.as_ref().map(|hash| &hash.0[..]),
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes expired rows and returns their number. For a job.
///
/// # Errors
/// If the database query fails.
pub async fn sweep(db: &PgPool) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "/* sessions.sweep */ DELETE FROM sessions WHERE expires_at < clock_timestamp()"
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// The beginning of a text: whole characters, at most so many bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

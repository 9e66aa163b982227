//! Fencing tokens across restored backups and failovers (P4).
//!
//! A copy of the database can be older than the grants that were answered: a restored backup, or a
//! standby that was promoted. Its sequence would issue the same fencing tokens again. A row
//! remembers which cluster and timeline the tokens belong to; a connection to another one moves the
//! sequence 2^32 ahead before anything can be granted.

use sqlx::{Acquire, PgConnection, PgPool};

/// How far the fencing tokens jump: more than any service grants between a backup and its restore.
/// 2^53 / 2^32: two million restores before they run out.
pub const FENCING_TOKEN_JUMP: i64 = 1 << 32;

/// Compares the database with the one that it remembers to be, and moves the fencing tokens ahead
/// where they differ. Called on every new connection, before it is used; does nothing on a database
/// without our schema.
pub(super) async fn check(connection: &mut PgConnection) -> sqlx::Result<()> {
    let state = sqlx::query!(
        r#"/* identity.check */
        SELECT to_regclass('database_identity') IS NOT NULL AS "migrated!",
               pg_is_in_recovery() AS "standby!""#
    )
    .fetch_one(&mut *connection)
    .await?;
    if state.standby {
        // Its promotion would make it another database, and this connection would not look again.
        return Err(sqlx::Error::Protocol(
            "this PostgreSQL is a standby: connect to the primary".into(),
        ));
    }
    if !state.migrated {
        return Ok(());
    }
    if !is_known(connection).await? {
        let mut transaction = connection.begin().await?;
        // One node at a time; the others then find the new identity.
        lock_identity(&mut transaction).await?;
        if !is_known(&mut transaction).await? {
            let next = jump(&mut transaction).await?;
            tracing::warn!(
                next_fencing_token = next,
                "another database than before: fencing tokens moved ahead"
            );
        }
        transaction.commit().await?;
    }
    Ok(())
}

/// Moves the fencing tokens ahead whatever the database remembers: for snapshots that change
/// neither system identifier nor timeline (a disk image, a copied volume). Returns the next fencing
/// token.
///
/// # Errors
/// The database's, or that it cannot be reached.
pub async fn restored(pool: &PgPool) -> sqlx::Result<i64> {
    jump_ahead(&mut *pool.acquire().await?).await
}

pub(super) async fn jump_ahead(connection: &mut PgConnection) -> sqlx::Result<i64> {
    let mut transaction = connection.begin().await?;
    lock_identity(&mut transaction).await?;
    let next = jump(&mut transaction).await?;
    transaction.commit().await?;
    Ok(next)
}

async fn is_known(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"/* identity.is_known */
        SELECT EXISTS (SELECT FROM database_identity d, pg_control_system() c
                        WHERE d.system_identifier = c.system_identifier
                          AND d.timeline =
                              ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))
                                  ::bit(32)::bigint) AS "known!""#
    )
    .fetch_one(connection)
    .await
}

async fn lock_identity(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("/* identity.lock */ LOCK TABLE database_identity IN EXCLUSIVE MODE")
        .execute(connection)
        .await?;
    Ok(())
}

async fn jump(connection: &mut PgConnection) -> sqlx::Result<i64> {
    let next = sqlx::query_scalar!(
        r#"/* identity.jump */
        SELECT setval('lock_fence', nextval('lock_fence') + $1, false) AS "next!""#,
        FENCING_TOKEN_JUMP
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query!(
        "/* identity.remember */
        INSERT INTO database_identity AS d (system_identifier, timeline)
        SELECT system_identifier,
               ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
          FROM pg_control_system()
        ON CONFLICT (one) DO UPDATE
           SET system_identifier = excluded.system_identifier, timeline = excluded.timeline"
    )
    .execute(connection)
    .await?;
    Ok(next)
}

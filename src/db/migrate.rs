//! Bringing a database to the schema that this program needs, and refusing one that cannot keep the
//! promises.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use super::embedded::OLDEST_MAJOR;

/// The migrations, embedded in the program.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    // Newer nodes may have run migrations that this program does not know and works with
    // nevertheless.
    migrator.set_ignore_missing(true);
    migrator
}

/// Why a database is not used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Its schema is newer than this program knows how to work with.
    #[error(
        "this is lockable {this}, and the database has been migrated for {needed} or newer: \
         upgrade this node"
    )]
    TooOld {
        /// This program's version.
        this: String,
        /// The oldest that works with the schema.
        needed: String,
    },
    /// It may forget what it committed.
    #[error(
        "this PostgreSQL runs with {0} off: after a crash it may have lost locks that were \
         granted. Set {0} = on in its \
         configuration, or say --unsafe-database if that is what you want (for throw-away data)"
    )]
    Unsafe(&'static str),
    /// It is too old.
    #[error("this PostgreSQL is version {0}: Lockable needs {OLDEST_MAJOR} or newer")]
    OldServer(i32),
    /// Names are UTF-8.
    #[error(
        "the database's encoding is {0}: Lockable needs UTF8 (create database ... encoding 'UTF8' \
         template template0)"
    )]
    Encoding(String),
    /// It is a standby, which cannot write.
    #[error("this PostgreSQL is a standby: DATABASE_URL has to lead to the primary")]
    Standby,
    /// A migration failed, or one that ran earlier is not the one in this program.
    #[error("the database cannot be migrated")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database could not be asked.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Checks the server, then runs what is missing of the migrations. Several nodes may do this at
/// once: they take turns under an advisory lock, and all but the first find nothing to do.
/// `allow_unsafe`: see `--unsafe-database`.
///
/// # Errors
/// Sentences that say why this database is not used.
pub async fn prepare(
    connection: &mut PgConnection,
    allow_unsafe: bool,
) -> Result<(), MigrateError> {
    check_server(connection, allow_unsafe).await?;
    // Before, so that an old program changes nothing; and after, because another node may have
    // migrated meanwhile.
    check_compatibility(connection).await?;
    let before = applied(connection).await?;
    migrator().run(&mut *connection).await?;
    check_compatibility(connection).await?;
    let now = applied(connection).await?;
    if now > before {
        tracing::info!(from = before, to = now, "the database is migrated");
    }
    Ok(())
}

/// The number of the newest migration that this database has; 0: none.
///
/// # Errors
/// The database's, or that it cannot be reached.
pub async fn applied(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    if !has_schema(connection).await? {
        return Ok(0);
    }
    sqlx::query_scalar!(
        r#"/* migrate.applied */
        SELECT coalesce(max(migration), 0) AS "newest!" FROM schema_compatibility"#
    )
    .fetch_one(connection)
    .await
}

/// The same, with a connection of its own.
///
/// # Errors
/// The database's, or that it cannot be reached.
pub async fn applied_with(options: &PgConnectOptions) -> Result<i64, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let applied = applied(&mut connection).await?;
    connection.close().await?;
    Ok(applied)
}

/// The number of the newest migration that this program has.
pub fn newest() -> i64 {
    migrator()
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

async fn has_schema(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"/* migrate.has_schema */
        SELECT to_regclass('schema_compatibility') IS NOT NULL AS "there!""#
    )
    .fetch_one(connection)
    .await
}

async fn check_compatibility(connection: &mut PgConnection) -> Result<(), MigrateError> {
    if !has_schema(connection).await? {
        return Ok(());
    }
    let oldest = sqlx::query_scalar!(
        "/* migrate.oldest_programs */ SELECT oldest_program FROM schema_compatibility"
    )
    .fetch_all(connection)
    .await?;
    match oldest.into_iter().max_by_key(|version| numbers(version)) {
        Some(needed) if numbers(&needed) > numbers(env!("CARGO_PKG_VERSION")) => {
            Err(MigrateError::TooOld {
                this: env!("CARGO_PKG_VERSION").to_owned(),
                needed,
            })
        }
        _ => Ok(()),
    }
}

/// The numbers of a version, for comparison: 0.10.0 is newer than 0.9.5. A part that is no number
/// counts as 0.
fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    plain
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}

async fn check_server(
    connection: &mut PgConnection,
    allow_unsafe: bool,
) -> Result<(), MigrateError> {
    let server = sqlx::query!(
        r#"/* migrate.server */
        SELECT current_setting('server_version_num')::int AS "version!",
               current_setting('server_encoding') AS "encoding!",
               current_setting('fsync') = 'on' AS "fsync!",
               current_setting('full_page_writes') = 'on' AS "full_page_writes!",
               current_setting('synchronous_standby_names') <> '' AS "synchronous!",
               pg_is_in_recovery() AS "standby!",
               (SELECT count(*) FROM pg_stat_replication) AS "receivers!""#
    )
    .fetch_one(connection)
    .await?;
    let major = server.version / 10_000;
    if major.cast_unsigned() < OLDEST_MAJOR {
        return Err(MigrateError::OldServer(major));
    }
    if server.encoding != "UTF8" {
        return Err(MigrateError::Encoding(server.encoding));
    }
    if server.standby {
        return Err(MigrateError::Standby);
    }
    for (name, on) in [
        ("fsync", server.fsync),
        ("full_page_writes", server.full_page_writes),
    ] {
        if !on && !allow_unsafe {
            return Err(MigrateError::Unsafe(name));
        }
        if !on {
            tracing::warn!(
                "this PostgreSQL runs with {name} off: a crash of it may forget locks that were \
                 granted"
            );
        }
    }
    if server.receivers > 0 && !server.synchronous {
        tracing::warn!(
            receivers = server.receivers,
            "this PostgreSQL is replicated asynchronously (synchronous_standby_names is empty): a \
             failover may forget locks \
             that were granted and give out their fencing tokens again; see docs/operations.md"
        );
    }
    Ok(())
}

/// Opens one connection and prepares the database with it.
///
/// # Errors
/// As [`prepare`].
pub async fn prepare_with(
    options: &PgConnectOptions,
    allow_unsafe: bool,
) -> Result<(), MigrateError> {
    let mut connection = PgConnection::connect_with(options).await?;
    let outcome = prepare(&mut connection, allow_unsafe).await;
    // Its work is committed: a failure to close the connection changes nothing.
    let _ = connection.close().await;
    outcome
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(numbers("0.10.0") > numbers("0.9.5"));
        assert!(numbers("1.0.0") > numbers("0.99.99"));
        assert_eq!(numbers("0.1.0-alpha"), numbers("0.1.0"));
    }
}

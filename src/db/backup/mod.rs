//! Backups: a file of `pg_dump`'s custom format, and the way back from it.
//!
//! The data of `database_identity` is left out, so that a restored database is always recognised as
//! another one, and its fencing tokens move far ahead before anything is granted (P4).

mod target;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sqlx::{Connection, PgConnection};
use url::Url;

use super::children;
use super::connection::{self, Purpose};
use super::embedded::Programs;
use super::identity;
use super::source::{Source, SourceError};
use crate::config::DatabaseSettings;
use target::{STANDARD_STREAM, Target};

pub use target::Written;

/// Why a backup was not made, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no database to connect to.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The database does not answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// `pg_dump` dumps servers of its own version and older ones.
    #[error(
        "the server is PostgreSQL {0}: this needs that version's {1}, or a newer one, on this \
         machine (or PG_BIN)"
    )]
    NoProgram(u32, &'static str),
    /// The file cannot be had.
    #[error("{}: {error}", path_name(path))]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// It failed; its own words are on standard error already.
    #[error("{program} failed ({status}), {outcome}")]
    Failed {
        /// Which program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The state of the data.
        outcome: &'static str,
    },
    /// A node or command works on the database.
    #[error("{0} connections of lockable use this database: stop all nodes before it is replaced")]
    InUse(i64),
    /// There is data that would be lost.
    #[error(
        "the database is not empty ({0} accounts): say --replace to have its contents replaced by \
         the backup's"
    )]
    NotEmpty(i64),
}

/// A path for people, who may not know what `-` means.
fn path_name(path: &Path) -> String {
    if path == Path::new(STANDARD_STREAM) {
        "standard input or output".to_owned()
    } else {
        path.display().to_string()
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_path_buf();
    move |error| BackupError::File { path, error }
}

/// Writes a backup while the service may go on. A regular file appears, or replaces an older one,
/// when it is complete, and a link is followed to it; a device or a pipe is written to. `-` is
/// standard output.
///
/// # Errors
/// Sentences that say what went wrong; there is no half-written file then.
pub async fn backup(settings: &DatabaseSettings, file: &Path) -> Result<Written, BackupError> {
    // As root the process becomes another user for the embedded cluster: what needs root's rights
    // on the file comes first.
    let target = Target::open(file).map_err(file_error(file))?;
    let source = Source::for_command(settings)?;
    let outcome = dump(&source, settings, file, &target).await;
    source.stop();
    outcome?;
    target.keep().map_err(file_error(file))
}

async fn dump(
    source: &Source,
    settings: &DatabaseSettings,
    file: &Path,
    target: &Target,
) -> Result<(), BackupError> {
    let programs = programs_for(source, "pg_dump").await?;
    let mut command = client(&programs, "pg_dump", source, settings);
    command
        .args([
            "--format=custom",
            "--no-password",
            "--exclude-table-data=database_identity",
        ])
        .stdout(target.stdio().map_err(file_error(file))?);
    run(command, "pg_dump", target.after_failure())
}

/// Replaces the contents of the database by a backup's, from a file, a device or a pipe; `-` is
/// standard input. No node may use the database.
///
/// # Errors
/// Sentences that say what went wrong; the database is then as it was.
pub async fn restore(
    settings: &DatabaseSettings,
    file: &Path,
    replace: bool,
) -> Result<(), BackupError> {
    // Opened first, for the same reason.
    let input = open_input(file).map_err(file_error(file))?;
    let source = Source::for_command(settings)?;
    let outcome = load(&source, settings, input, replace).await;
    source.stop();
    outcome
}

fn open_input(file: &Path) -> io::Result<File> {
    if file == Path::new(STANDARD_STREAM) {
        let input = io::stdin();
        if input.is_terminal() {
            return Err(io::Error::other(
                "it is a terminal: redirect it to a backup",
            ));
        }
        return input.as_fd().try_clone_to_owned().map(File::from);
    }
    let input = File::open(file)?;
    if input.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(input)
}

async fn load(
    source: &Source,
    settings: &DatabaseSettings,
    input: File,
    replace: bool,
) -> Result<(), BackupError> {
    let mut connection = PgConnection::connect_with(source.options()).await?;
    let state = sqlx::query!(
        r#"/* backup.state */
        SELECT to_regclass('accounts') IS NOT NULL AS "migrated!",
               (SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'lockable%'
                   AND pid <> pg_backend_pid()) AS "in_use!""#
    )
    .fetch_one(&mut connection)
    .await?;
    if state.in_use > 0 {
        return Err(BackupError::InUse(state.in_use));
    }
    if state.migrated && !replace {
        let accounts = sqlx::query_scalar!(
            r#"/* backup.accounts */ SELECT count(*) AS "accounts!" FROM accounts"#
        )
        .fetch_one(&mut connection)
        .await?;
        if accounts > 0 {
            return Err(BackupError::NotEmpty(accounts));
        }
    }
    connection.close().await?;
    let programs = programs_for(source, "pg_restore").await?;
    let mut command = client(&programs, "pg_restore", source, settings);
    command
        .args([
            "--clean",
            "--if-exists",
            "--no-owner",
            "--no-privileges",
            "--single-transaction",
            "--exit-on-error",
        ])
        .arg("--no-password")
        .stdin(input);
    run(command, "pg_restore", "the database is as it was")?;
    // A node that connected in spite of all while it was restored has looked at what was there
    // before.
    let mut connection = connection::connect(source.options(), Purpose::General).await?;
    identity::jump_ahead(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// The programs of the server's version, else of the next newer.
async fn programs_for(source: &Source, program: &'static str) -> Result<Programs, BackupError> {
    let mut connection = PgConnection::connect_with(source.options()).await?;
    let major = sqlx::query_scalar!(
        r#"/* backup.server_major */
        SELECT current_setting('server_version_num')::int / 10000 AS "major!""#
    )
    .fetch_one(&mut connection)
    .await?
    .cast_unsigned();
    connection.close().await?;
    let mut installed = Programs::installed();
    installed.retain(|it| it.major >= major && it.path(program).is_file());
    installed
        .into_iter()
        .min_by_key(|it| it.major)
        .ok_or(BackupError::NoProgram(major, program))
}

/// One of PostgreSQL's client programs for this database. The password goes by the environment,
/// because other users can see command lines.
fn client(
    programs: &Programs,
    program: &str,
    source: &Source,
    settings: &DatabaseSettings,
) -> Command {
    children::close_foreign_descriptors();
    let mut command = children::command(programs.path(program));
    command.stdin(Stdio::null());
    if let Some(url) = &settings.database_url {
        let (url, password) = for_libpq(&url.parse().expect("the source was made from it"));
        command.arg("--dbname").arg(url.as_str());
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        return command;
    }
    for (name, _) in std::env::vars_os() {
        if children::is_postgres_variable(&name) {
            command.env_remove(name);
        }
    }
    let options = source.options();
    if let Some(socket) = options.get_socket() {
        // Also a folder that this user may be in: as root we came from somewhere else.
        command.current_dir(socket).arg("--host").arg(socket);
    }
    command.args([
        "--port",
        &options.get_port().to_string(),
        "--username",
        options.get_username(),
    ]);
    command.args(["--dbname", options.get_database().unwrap_or("lockable")]);
    command
}

/// The URL without its password and without the parameters that only our driver knows.
fn for_libpq(url: &Url) -> (Url, Option<String>) {
    const KNOWN: [&str; 10] = [
        "host",
        "hostaddr",
        "port",
        "user",
        "dbname",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "options",
    ];
    let mut plain = url.clone();
    let mut password = url.password().map(|it| {
        percent_encoding::percent_decode_str(it)
            .decode_utf8_lossy()
            .into_owned()
    });
    // Fails only for URLs that cannot have a password.
    let _ = plain.set_password(None);
    plain.set_query(None);
    for (name, value) in url.query_pairs() {
        if name == "password" {
            password = Some(value.into_owned());
        } else if KNOWN.contains(&&*name) {
            plain.query_pairs_mut().append_pair(&name, &value);
        }
    }
    (plain, password)
}

fn run(
    mut command: Command,
    program: &'static str,
    outcome: &'static str,
) -> Result<(), BackupError> {
    let failed = |status: String| BackupError::Failed {
        program,
        status,
        outcome,
    };
    let status = command
        .status()
        .map_err(|error| failed(error.to_string()))?;
    if status.success() {
        Ok(())
    } else {
        Err(failed(status.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_stay_off_the_command_line() {
        let url = Url::parse(
            "postgres://me:p%40ss@db/lockable?sslmode=require&statement-cache-capacity=5",
        )
        .unwrap();
        let (plain, password) = for_libpq(&url);
        assert_eq!(plain.as_str(), "postgres://me@db/lockable?sslmode=require");
        assert_eq!(password.as_deref(), Some("p@ss"));
        let url = Url::parse("postgres:///db?host=/tmp/x&user=me&password=secret").unwrap();
        let (plain, password) = for_libpq(&url);
        assert_eq!(plain.as_str(), "postgres:///db?host=%2Ftmp%2Fx&user=me");
        assert_eq!(password.as_deref(), Some("secret"));
    }
}

//! Backups: a file of `pg_dump`'s custom format, and the way back from it.
//!
//! The data of `database_identity` is left out, so that a restored database is always recognised as
//! another one, and its fencing tokens move far ahead before anything is granted (P4).

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sqlx::{Connection, PgConnection};
use url::Url;

use super::connection::{self, Purpose};
use super::embedded::Programs;
use super::identity;
use super::source::{Source, SourceError};
use crate::config::DatabaseSettings;

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
        "the server is PostgreSQL {0}: this needs that version's {1}, or a newer one, on this machine (or PG_BIN)"
    )]
    NoProgram(u32, &'static str),
    /// The file cannot be had.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It failed; its own words are on standard error already.
    #[error("{program} failed ({status}), {outcome}")]
    Failed {
        /// Which program.
        program: &'static str,
        /// How it ended.
        status: String,
        /// What that means for the data.
        outcome: &'static str,
    },
    /// A node or command works on the database.
    #[error("{0} connections of lockable use this database: stop all nodes before it is replaced")]
    InUse(i64),
    /// There is data that would be lost.
    #[error(
        "the database is not empty ({0} accounts): say --replace to have its contents replaced by the backup's"
    )]
    NotEmpty(i64),
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_path_buf();
    move |error| BackupError::File { path, error }
}

/// Writes a backup to this file, which appears, or replaces an older one, when it is complete.
/// Returns its size in bytes. The service may go on meanwhile.
///
/// # Errors
/// Sentences that say what went wrong; there is no half-written file then.
pub async fn backup(settings: &DatabaseSettings, file: &Path) -> Result<u64, BackupError> {
    let target = std::path::absolute(file).map_err(file_error(file))?;
    // As root the process becomes another user for the embedded cluster: what needs root's rights
    // on the file comes first.
    let output = Output::create(&target)?;
    let source = Source::for_command(settings)?;
    let outcome = dump(&source, settings, &output).await;
    source.stop();
    outcome?;
    output.keep()
}

async fn dump(
    source: &Source,
    settings: &DatabaseSettings,
    output: &Output,
) -> Result<(), BackupError> {
    let programs = programs_for(source, "pg_dump").await?;
    let mut command = client(&programs, "pg_dump", source, settings);
    command
        .args([
            "--format=custom",
            "--no-password",
            "--exclude-table-data=database_identity",
        ])
        .stdout(
            output
                .file
                .try_clone()
                .map_err(file_error(&output.target))?,
        );
    run(command, "pg_dump", "no backup was written")
}

/// Replaces the contents of the database by the backup's. No node may use it.
///
/// # Errors
/// Sentences that say what went wrong; the database is then as it was.
pub async fn restore(
    settings: &DatabaseSettings,
    file: &Path,
    replace: bool,
) -> Result<(), BackupError> {
    // Opened first, for the same reason.
    let input = File::open(file).map_err(file_error(file))?;
    let source = Source::for_command(settings)?;
    let outcome = load(&source, settings, input, replace).await;
    source.stop();
    outcome
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
                 WHERE datname = current_database() AND application_name LIKE 'lockable%' AND pid <> pg_backend_pid()) AS "in_use!""#
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
        r#"/* backup.server_major */ SELECT current_setting('server_version_num')::int / 10000 AS "major!""#
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
    let mut command = Command::new(programs.path(program));
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
        if name.to_string_lossy().starts_with("PG") {
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

/// A file that takes its name only when it is complete.
///
/// A small shell waits beside this process to give it the name, with the rights that the command
/// was started with; should this process fail or be killed, it removes what was written.
struct Output {
    file: File,
    target: PathBuf,
    renamer: Child,
}

impl Output {
    fn create(target: &Path) -> Result<Self, BackupError> {
        let name = target
            .file_name()
            .ok_or_else(|| file_error(target)(io::ErrorKind::IsADirectory.into()))?;
        let mut unfinished = std::ffi::OsString::from(".");
        unfinished.push(name);
        unfinished.push(format!(".{}", std::process::id()));
        let unfinished = target.with_file_name(unfinished);
        // Holds everybody's password hashes.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(file_error(target))?;
        let renamer = Command::new("/bin/sh")
            .args([
                "-c",
                "if read line; then mv -f -- \"$1\" \"$2\"; else rm -f -- \"$1\"; fi",
                "lockable-backup",
            ])
            .args([&unfinished, target])
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(file_error(target))?;
        Ok(Self {
            file,
            target: target.to_path_buf(),
            renamer,
        })
    }

    fn keep(mut self) -> Result<u64, BackupError> {
        let failed = file_error(&self.target);
        let mut finish = || {
            self.file.sync_all()?;
            let size = self.file.metadata()?.len();
            if let Some(mut stdin) = self.renamer.stdin.take() {
                stdin.write_all(b"\n")?;
            }
            if self.renamer.wait()?.success() {
                Ok(size)
            } else {
                Err(io::Error::other("it cannot be renamed to this"))
            }
        };
        finish().map_err(failed)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // End of file: the shell removes what is unfinished.
        drop(self.renamer.stdin.take());
        let _ = self.renamer.wait();
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

    #[test]
    fn an_unfinished_file_leaves_nothing_and_a_finished_one_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b.dump");
        drop(Output::create(&target).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let output = Output::create(&target).unwrap();
        (&output.file).write_all(b"data").unwrap();
        assert!(!target.exists());
        assert_eq!(output.keep().unwrap(), 4);
        assert_eq!(
            std::fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}

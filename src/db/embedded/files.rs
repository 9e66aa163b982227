//! The files of the embedded cluster: their paths, PostgreSQL's settings, and the making of a
//! new one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::super::children;
use super::error::EmbeddedError;
use super::memory;
use super::owner::make_private_dir;
use super::programs::Programs;

/// The role and the database of the service.
pub const ROLE: &str = "lockable";

/// The number in the socket's name; nothing listens on TCP.
pub const PORT: u16 = 5432;

/// A Unix socket's path has at most 107 bytes on Linux and 103 on macOS, the terminating NUL not
/// counted.
const LONGEST_SOCKET_PATH: usize = 103;

/// The paths of a data directory.
#[derive(Clone, Debug)]
pub struct Places {
    /// The data directory.
    pub data_dir: PathBuf,
    /// PostgreSQL's own folder: `postgres` in the data directory, or the folder that this links to.
    pub cluster: PathBuf,
    /// The folder of the socket, mode 0700.
    pub sockets: PathBuf,
    /// Locked by the one process that runs the cluster.
    pub lock: PathBuf,
}

impl Places {
    /// The places under this data directory.
    ///
    /// # Errors
    /// PostgreSQL's settings could not name one of them.
    pub fn new(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let data_dir = real(data_dir);
        let cluster = real(&data_dir.join("postgres"));
        for path in [&data_dir, &cluster] {
            check_path(path)?;
        }
        let mut sockets = data_dir.join("run");
        let longest = format!("/.s.PGSQL.{PORT}").len() + sockets.as_os_str().len();
        // These have a meaning where PostgreSQL and its clients list folders of sockets.
        let is_listable = !sockets.to_string_lossy().contains([',', '"', '\'', '\\']);
        if longest > LONGEST_SOCKET_PATH || !is_listable {
            // A short place that every command works out the same way from the data directory.
            let digest = hex::encode(Sha256::digest(data_dir.as_os_str().as_encoded_bytes()));
            sockets = PathBuf::from(format!("/tmp/lockable-{}", &digest[..16]));
        }
        Ok(Self {
            lock: data_dir.join("lockable.lock"),
            cluster,
            sockets,
            data_dir,
        })
    }

    /// Makes the folder of the socket, and checks that it belongs to this user: anybody may write
    /// to /tmp.
    pub(super) fn make_socket_dir(&self) -> Result<(), EmbeddedError> {
        make_private_dir(&self.sockets)
            .map_err(EmbeddedError::io("make the socket's folder", &self.sockets))?;
        let meta = fs::symlink_metadata(&self.sockets)
            .map_err(EmbeddedError::io("read", &self.sockets))?;
        if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(EmbeddedError::SocketDirTaken(self.sockets.clone()));
        }
        Ok(())
    }

    /// The major version of the cluster that is here, if one is.
    pub(super) fn cluster_major(&self) -> Result<Option<u32>, EmbeddedError> {
        let file = self.cluster.join("PG_VERSION");
        match fs::read_to_string(&file) {
            Ok(text) => text
                .trim()
                .parse()
                .map(Some)
                .map_err(|_| EmbeddedError::NoCluster(self.cluster.clone())),
            // Also a link to a folder that is not there: its disk may only be not mounted yet, and
            // a new cluster would have forgotten all locks.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && fs::symlink_metadata(&self.cluster).is_ok() =>
            {
                Err(EmbeddedError::NoCluster(self.cluster.clone()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EmbeddedError::io("read", &file)(error)),
        }
    }

    /// Makes a new cluster with the service's role and database, in a folder beside, which takes
    /// its name only when it is complete: a crash on the way leaves nothing that looks like data.
    pub(super) fn make_cluster(
        &self,
        programs: &Programs,
        user: &str,
    ) -> Result<(), EmbeddedError> {
        let unfinished = self.data_dir.join("postgres.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(EmbeddedError::io("remove", &unfinished))?;
        }
        let mut initdb = self.command(programs, "initdb");
        // The C locale: names are compared byte for byte, and a new version of the system's locales
        // breaks no index.
        initdb.arg("--pgdata").arg(&unfinished).args([
            "--username=postgres",
            "--auth-local=peer",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-instructions",
        ]);
        finish(initdb, "initdb", "")?;
        self.configure(&unfinished, programs, user, 100)?;
        // Single-user mode: no server, no socket, nobody else.
        let mut single = self.command(programs, "postgres");
        single.arg("--single").arg("-D").arg(&unfinished).args([
            "-c",
            "exit_on_error=on",
            "postgres",
        ]);
        let set_up = format!(
            "CREATE ROLE {ROLE} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;\n\
             CREATE DATABASE {ROLE} OWNER {ROLE} TEMPLATE template0;\n\
             REVOKE CONNECT ON DATABASE {ROLE} FROM PUBLIC;\n"
        );
        finish(single, "postgres --single", &set_up)?;
        fs::rename(&unfinished, &self.cluster).map_err(EmbeddedError::io("name", &self.cluster))?;
        fs::File::open(&self.data_dir)
            .and_then(|dir| dir.sync_all())
            .map_err(EmbeddedError::io("flush", &self.data_dir))
    }

    /// Writes PostgreSQL's settings, anew at each start: the places and the user may have
    /// changed.
    pub(super) fn configure(
        &self,
        cluster: &Path,
        programs: &Programs,
        user: &str,
        max_connections: u32,
    ) -> Result<(), EmbeddedError> {
        let write = |name: &str, text: &str| {
            let file = cluster.join(name);
            fs::write(&file, text).map_err(EmbeddedError::io("write", &file))
        };
        let operators = self.data_dir.join("postgresql.conf");
        write(
            "postgresql.conf",
            &postgresql_conf(
                check_path(&self.sockets)?,
                check_path(&operators)?,
                programs,
                max_connections,
            ),
        )?;
        write("pg_hba.conf", HBA)?;
        write("pg_ident.conf", &ident(user))
    }

    /// One of PostgreSQL's programs, with an environment and a folder that suit it.
    pub(super) fn command(&self, programs: &Programs, program: &str) -> Command {
        let mut command = children::command(programs.path(program));
        command
            .current_dir(&self.data_dir)
            .env("HOME", &self.data_dir)
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        for (name, _) in std::env::vars_os() {
            if children::is_postgres_variable(&name) {
                command.env_remove(name);
            }
        }
        command
    }
}

impl Places {
    /// The options to connect as the service's role.
    pub fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.sockets)
            .port(PORT)
            .username(ROLE)
            .database(ROLE)
            .application_name("lockable")
            .ssl_mode(PgSslMode::Disable)
    }
}

/// On the socket the operating system names the user (`peer`), and the map lists that user's roles.
/// Only its owner and root can enter the folder of the socket.
const HBA: &str = "# Written by lockable at each start.\nlocal all all peer map=lockable\n";

/// Root and the service's user may take the service's role. The service's user may also take the
/// superuser role `postgres`, which the service never uses: it is for pg_upgrade and repairs, and
/// gives no new right, because that user owns the files anyway.
fn ident(user: &str) -> String {
    let user = user.replace('"', "\"\"");
    let mut map = format!("# Written by lockable at each start.\nlockable root {ROLE}\n");
    for role in [ROLE, "postgres"] {
        map.push_str(&format!("lockable \"{user}\" {role}\n"));
    }
    map
}

/// The path as text that PostgreSQL's settings can hold.
fn check_path(path: &Path) -> Result<&str, EmbeddedError> {
    path.to_str()
        .filter(|text| !text.contains(char::is_control))
        .ok_or_else(|| EmbeddedError::UnusablePath(path.to_path_buf()))
}

/// A value of `postgresql.conf` in quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn postgresql_conf(
    sockets: &str,
    operators: &str,
    programs: &Programs,
    max_connections: u32,
) -> String {
    let socket_list = quoted(&format!("\"{}\"", sockets.replace('"', "\"\"")));
    let include = quoted(operators);
    // lz4 came with 15, if the package was built with it; pglz is there always, at more processor
    // time.
    let compression = if built_with_lz4(programs) {
        "lz4"
    } else {
        "on"
    };
    let shared_buffers_mb = memory::shared_buffers_mb();
    format!(
        "# Written by lockable at each start. Your own settings go to
# {operators}, which is read last.

# Reached through the Unix socket only, in a folder that is closed to others.
listen_addresses = ''
unix_socket_directories = {socket_list}
unix_socket_permissions = 0700
port = {PORT}
max_connections = {max_connections}

# These are locks: what was answered must survive a crash.
fsync = on
full_page_writes = on
synchronous_commit = on

# A quarter of this machine's memory, 4 GB at most. PostgreSQL fills it only as far as there are
# locks to keep in it.
shared_buffers = {shared_buffers_mb}MB

# Every heartbeat is an update. Checkpoints are far apart, because the first change of a page
# after each of them logs the page whole; those pages are compressed, which halves the log.
max_wal_size = 4GB
min_wal_size = 128MB
checkpoint_timeout = 15min
wal_compression = {compression}

# Updates leave dead rows behind within seconds: look for them often, so that the table does not
# grow.
autovacuum_naptime = 5s

# Statements are short: compiling them costs more than running them.
jit = off

# The log goes to the service's log. It has no texts of statements: they could hold private data.
log_destination = 'stderr'
logging_collector = off
log_line_prefix = ''
log_min_messages = warning
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length_on_error = 0
log_checkpoints = off
log_timezone = 'UTC'
timezone = 'UTC'
lc_messages = 'C'
cluster_name = 'lockable'
restart_after_crash = on

include_if_exists = {include}
"
    )
}

/// True if this `postgres` knows lz4. It refuses an unknown value before it looks for its data.
fn built_with_lz4(programs: &Programs) -> bool {
    children::command(programs.path("postgres"))
        .args([
            "--single",
            "-D",
            "/nonexistent",
            "-c",
            "wal_compression=lz4",
            "postgres",
        ])
        .output()
        .is_ok_and(|output| !String::from_utf8_lossy(&output.stderr).contains("wal_compression"))
}

/// Runs a program to its end, with `input` on its standard input. The error has its standard error.
fn finish(mut command: Command, name: &str, input: &str) -> Result<(), EmbeddedError> {
    let failed = |said: String| EmbeddedError::Program {
        program: name.to_owned(),
        said,
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ended before it had read all, its exit status and words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(format!(
        "{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_or_refused() {
        assert_eq!(quoted(r"/a'b\c"), r"'/a''b\\c'");
        for plain in [
            "/var/lib/lockable",
            "/data/it's",
            r"/data/back\slash",
            "/data/\"x\", y",
        ] {
            assert_eq!(check_path(Path::new(plain)).unwrap(), plain);
        }
        for wrong in [
            "/data/\nfsync = off",
            "/data/\r",
            "/data/\t",
            "/data/\u{7f}",
        ] {
            assert!(check_path(Path::new(wrong)).is_err(), "{wrong:?}");
        }
    }
}

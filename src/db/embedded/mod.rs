//! The embedded default: a real PostgreSQL cluster of the service's own, under its data directory,
//! on a Unix socket.
//!
//! One process at a time runs the cluster, the one that holds the lock on the data directory:
//! `lockable serve`, or a command for its own length. Other commands use the one that runs.

mod files;
mod memory;
mod owner;
mod postmaster;
mod programs;

use std::fs::{File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgSslMode};

pub use files::{PORT, Places, ROLE};
pub use owner::{OwnerError, settle_in};
pub use programs::{OLDEST_MAJOR, Programs};

use postmaster::{Postmaster, ready_process};

/// How long to wait for another command to finish with the cluster.
const WAIT_FOR_COMMANDS: Duration = Duration::from_secs(60);

/// How long a command waits for a service that is starting.
const WAIT_FOR_SERVICE: Duration = Duration::from_secs(30);

/// A cluster that this process runs.
#[derive(Debug)]
pub struct Embedded {
    places: Places,
    postmaster: Option<Postmaster>,
    /// Held as long as the cluster runs; the system lets go of it when the process ends, however
    /// that happens.
    lock: File,
}

/// What for a process runs the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `lockable serve`: until it is stopped.
    Serve,
    /// Any other command: for its own length.
    Command,
}

/// How this process comes to the embedded cluster.
#[derive(Debug)]
pub enum Access {
    /// It runs the cluster itself.
    Own(Embedded),
    /// A service runs it: here is the way in.
    Running(Places),
}

/// Why the embedded cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another process has the data directory.
    #[error(
        "the data directory {dir} is in use by another lockable (process {pid}): stop that one, or choose another place with \
         --data-dir"
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, as it wrote itself.
        pid: String,
    },
    /// There are no programs.
    #[error(
        "no PostgreSQL {OLDEST_MAJOR} or newer found on this machine ($PG_BIN, PATH, /usr/lib/postgresql/*/bin, Homebrew).\n\
         Install it (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql@17), say where it is with \
         PG_BIN=/folder/of/its/programs, or use a PostgreSQL that runs elsewhere with DATABASE_URL"
    )]
    NoPrograms,
    /// The cluster was made by another major version.
    #[error("{}", other_major(.cluster, *.of, .programs))]
    OtherMajor {
        /// Its folder.
        cluster: PathBuf,
        /// The version that made it.
        of: u32,
        /// The best programs that are here.
        programs: Programs,
    },
    /// There is something else in the place of the cluster.
    #[error(
        "{0} is there, but it is no PostgreSQL cluster: move it away, or choose another place with --data-dir"
    )]
    NoCluster(PathBuf),
    /// The socket's folder in /tmp belongs to somebody else.
    #[error(
        "{0} belongs to somebody else; the socket would go there because the data directory's path is too long: choose a shorter --data-dir"
    )]
    SocketDirTaken(PathBuf),
    /// PostgreSQL's settings cannot name the place.
    #[error("the path {0:?} is not UTF-8: choose another --data-dir")]
    NotUtf8(PathBuf),
    /// A PostgreSQL from before does not go away.
    #[error(
        "a PostgreSQL (process {pid}) from before still runs on {cluster} and does not stop: stop it, then try again"
    )]
    OrphanStays {
        /// Its process.
        pid: i32,
        /// Where it runs.
        cluster: PathBuf,
    },
    /// One of PostgreSQL's programs failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: String,
        /// Its exit status and last words.
        said: String,
    },
    /// The user or the data directory will not do.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A file could not be had.
    #[error("cannot {what} {path}: {error}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl EmbeddedError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File { what, path, error }
    }
}

impl Embedded {
    /// Starts the cluster of this data directory, making it where there is none, and returns when
    /// it takes connections. As root, the whole process becomes an unprivileged user first.
    ///
    /// # Errors
    /// Sentences that say what to do.
    pub fn start(
        data_dir: &Path,
        purpose: Purpose,
        max_connections: u32,
    ) -> Result<Self, EmbeddedError> {
        match Self::access(data_dir, purpose, max_connections)? {
            Access::Own(embedded) => Ok(embedded),
            Access::Running(places) => Err(EmbeddedError::InUse {
                pid: holder(&places.lock).pid,
                dir: places.data_dir,
            }),
        }
    }

    /// The way into the cluster of this data directory: a service's that runs it, else it is
    /// started.
    ///
    /// # Errors
    /// Sentences that say what to do.
    pub fn access(
        data_dir: &Path,
        purpose: Purpose,
        max_connections: u32,
    ) -> Result<Access, EmbeddedError> {
        let user = settle_in(data_dir)?;
        let places = Places::new(data_dir);
        let Some(lock) = take_lock(&places.lock, purpose)? else {
            if purpose == Purpose::Command {
                wait_until_ready(&places);
            }
            return Ok(Access::Running(places));
        };
        let programs = choose_programs(&places)?;
        places.make_socket_dir()?;
        if places.cluster_major()?.is_none() {
            tracing::info!(cluster = %places.cluster.display(), version = programs.major, "making a PostgreSQL cluster");
            places.make_cluster(&programs, &user)?;
        }
        places.configure(&places.cluster, &programs, &user, max_connections)?;
        let postmaster = Postmaster::start(places.clone(), programs.clone())?;
        if purpose == Purpose::Serve {
            tracing::info!(
                version = programs.major,
                "the data is in {}; to move it to a PostgreSQL of your own: `lockable backup FILE`, set DATABASE_URL, `lockable \
                 restore FILE`",
                places.cluster.display()
            );
        }
        Ok(Access::Own(Self {
            places,
            postmaster: Some(postmaster),
            lock,
        }))
    }

    /// Where things are.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Stops the cluster; it is gone when this returns. Dropping does the same.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        if let Some(postmaster) = self.postmaster.take() {
            postmaster.stop();
            if !self.places.sockets.starts_with(&self.places.data_dir) {
                // Left behind, it would only be litter.
                let _ = std::fs::remove_dir(&self.places.sockets);
            }
            // Nobody holds it now; the lock itself goes with the file.
            let _ = self.lock.set_len(0);
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop_now();
    }
}

impl Places {
    /// How to connect as the service.
    pub fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.sockets)
            .port(PORT)
            .username(ROLE)
            .database(ROLE)
            .ssl_mode(PgSslMode::Disable)
    }
}

/// Takes the lock of the data directory; none where a service holds it. Commands finish soon: they
/// are waited for.
fn take_lock(path: &Path, purpose: Purpose) -> Result<Option<File>, EmbeddedError> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(EmbeddedError::io("open", path))?;
    let deadline = Instant::now() + WAIT_FOR_COMMANDS;
    loop {
        match file.try_lock() {
            Ok(()) => {
                let word = match purpose {
                    Purpose::Serve => "serve",
                    Purpose::Command => "command",
                };
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| {
                        file.write_all(format!("{} {word}\n", std::process::id()).as_bytes())
                    })
                    .map_err(EmbeddedError::io("write", path))?;
                return Ok(Some(file));
            }
            Err(TryLockError::WouldBlock) if holder(path).serves || Instant::now() > deadline => {
                return Ok(None);
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::Error(error)) => return Err(EmbeddedError::io("lock", path)(error)),
        }
    }
}

/// A service that has just been started, or whose PostgreSQL died, is about to be ready. Where it
/// is not in time, the connection says so.
fn wait_until_ready(places: &Places) {
    let deadline = Instant::now() + WAIT_FOR_SERVICE;
    while ready_process(&places.cluster).is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Holder {
    pid: String,
    serves: bool,
}

/// Who holds the lock, in the holder's own words.
fn holder(path: &Path) -> Holder {
    let mut text = String::new();
    let _ = File::open(path).and_then(|file| file.take(100).read_to_string(&mut text));
    let mut words = text.split_whitespace();
    let pid = words.next().unwrap_or("unknown").to_owned();
    Holder {
        pid,
        serves: words.next() == Some("serve"),
    }
}

/// The programs of the version that made the cluster; for a new one the first found.
fn choose_programs(places: &Places) -> Result<Programs, EmbeddedError> {
    let installed = Programs::installed();
    let best = installed
        .first()
        .cloned()
        .ok_or(EmbeddedError::NoPrograms)?;
    match places.cluster_major()? {
        None => Ok(best),
        Some(of) => installed
            .into_iter()
            .find(|programs| programs.major == of)
            .ok_or_else(|| EmbeddedError::OtherMajor {
                cluster: places.cluster.clone(),
                of,
                programs: best,
            }),
    }
}

fn other_major(cluster: &Path, of: u32, programs: &Programs) -> String {
    let (bin, major) = (programs.bin.display(), programs.major);
    let old = cluster.display();
    let data_dir = cluster.parent().unwrap_or(cluster).display();
    let go_on = format!(
        "the data in {old} was made by PostgreSQL {of}, and this machine has PostgreSQL {major} ({bin}).\n\
         To go on with {of}: install its programs (Debian: apt-get install postgresql-{of}), beside the others, or say where \
         they are with PG_BIN."
    );
    if of > major {
        return go_on;
    }
    format!(
        "{go_on}\n\
         To upgrade the data, with the programs of both versions installed, as the user who owns {old}:\n  \
         cd {data_dir}\n  \
         {bin}/initdb -D {old}.{major} -U postgres -A trust -E UTF8 --locale=C --data-checksums\n  \
         {bin}/pg_upgrade -U postgres -b /usr/lib/postgresql/{of}/bin -B {bin} -d {old} -D {old}.{major}\n  \
         mv {old} {old}.{of} && mv {old}.{major} {old}\n\
         then start lockable again, and remove {old}.{of} when all is well."
    )
}

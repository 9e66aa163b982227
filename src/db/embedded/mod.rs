//! The embedded default: a real PostgreSQL cluster of the service's own, under its data directory,
//! on a Unix socket.
//!
//! One process at a time runs the cluster, the one that holds the lock on the data directory:
//! `lockable serve`, or a command for its own length. Other commands use the one that runs.

mod error;
mod files;
mod lock;
mod memory;
mod owner;
mod postmaster;
mod programs;
mod recovery;
mod shell;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

pub use error::EmbeddedError;
pub use files::{PORT, Places, ROLE};
pub use lock::ProcessKind;
pub use owner::{OwnerError, settle_in};
pub use programs::{OLDEST_MAJOR, Programs};

use super::children;
use postmaster::Postmaster;
use recovery::ready_process;

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
    /// Held beside it: the clusters of two data directories can be the same, by a link.
    _cluster_lock: File,
}

/// How this process comes to the embedded cluster.
#[derive(Debug)]
pub enum Access {
    /// It runs the cluster itself.
    Own(Embedded),
    /// A service runs it: here is the way in.
    Running(Places),
}

impl Embedded {
    /// Starts the cluster of this data directory, making it where there is none, and returns when
    /// it takes connections. As root, the whole process becomes an unprivileged user first.
    ///
    /// # Errors
    /// Sentences that say what to do.
    pub fn start(
        data_dir: &Path,
        kind: ProcessKind,
        max_connections: u32,
    ) -> Result<Self, EmbeddedError> {
        match Self::access(data_dir, kind, max_connections)? {
            Access::Own(embedded) => Ok(embedded),
            Access::Running(places) => Err(EmbeddedError::InUse {
                pid: lock::holder(&places.lock).pid,
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
        kind: ProcessKind,
        max_connections: u32,
    ) -> Result<Access, EmbeddedError> {
        // Before anything is made there.
        Places::new(data_dir)?;
        let user = settle_in(data_dir)?;
        let places = Places::new(data_dir)?;
        let Some(lock) = lock::take(&places.lock, kind)? else {
            if kind == ProcessKind::Command {
                wait_until_ready(&places);
            }
            return Ok(Access::Running(places));
        };
        children::close_foreign_descriptors();
        let programs = choose_programs(&places)?;
        places.make_socket_dir()?;
        if places.cluster_major()?.is_none() {
            tracing::info!(
                cluster = %places.cluster.display(),
                version = programs.major,
                "making a PostgreSQL cluster"
            );
            places.make_cluster(&programs, &user)?;
        }
        let cluster_lock = lock::take_cluster(&places.cluster)?;
        places.configure(&places.cluster, &programs, &user, max_connections)?;
        let postmaster = Postmaster::start(places.clone(), programs.clone())?;
        if kind == ProcessKind::Service {
            tracing::info!(
                version = programs.major,
                "the data is in {}; to move it to a PostgreSQL of your own: \
                 `lockable backup FILE`, set DATABASE_URL, `lockable restore FILE`",
                places.cluster.display()
            );
        }
        Ok(Access::Own(Self {
            places,
            postmaster: Some(postmaster),
            lock,
            _cluster_lock: cluster_lock,
        }))
    }

    /// Its paths.
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

/// A service that has just been started, or whose PostgreSQL died, is about to be ready. Where it
/// is not in time, the connection says so.
fn wait_until_ready(places: &Places) {
    let deadline = Instant::now() + WAIT_FOR_SERVICE;
    while ready_process(&places.cluster).is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
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

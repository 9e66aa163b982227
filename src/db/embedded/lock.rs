//! The lock of a data directory: one process at a time runs the cluster in it.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::error::EmbeddedError;

/// How long to wait for another command to finish with the cluster.
const WAIT_FOR_COMMANDS: Duration = Duration::from_secs(60);

/// How long to wait for a process that reaches the same cluster by another data directory.
const WAIT_FOR_CLUSTER: Duration = Duration::from_secs(3);

/// The kind of process that runs the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessKind {
    /// `lockable serve`, which runs it until it is stopped.
    Service,
    /// Any other command, which runs it for its own length.
    Command,
}

/// Takes the lock of the data directory. `None` if a service holds it, or a command does not let go
/// of it in time: commands finish soon, so they are waited for.
pub(super) fn take(path: &Path, kind: ProcessKind) -> Result<Option<File>, EmbeddedError> {
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
                let word = match kind {
                    ProcessKind::Service => "serve",
                    ProcessKind::Command => "command",
                };
                file.set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| {
                        file.write_all(format!("{} {word}\n", std::process::id()).as_bytes())
                    })
                    .map_err(EmbeddedError::io("write", path))?;
                return Ok(Some(file));
            }
            Err(TryLockError::WouldBlock)
                if holder(path).is_service || Instant::now() > deadline =>
            {
                return Ok(None);
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::Error(error)) => return Err(EmbeddedError::io("lock", path)(error)),
        }
    }
}

/// Takes the lock of the folder that PostgreSQL's data is in.
pub(super) fn take_cluster(cluster: &Path) -> Result<File, EmbeddedError> {
    let folder = File::open(cluster).map_err(EmbeddedError::io("open", cluster))?;
    let deadline = Instant::now() + WAIT_FOR_CLUSTER;
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                return Err(EmbeddedError::ClusterInUse(cluster.to_path_buf()));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::Error(error)) => {
                return Err(EmbeddedError::io("lock", cluster)(error));
            }
        }
    }
}

/// The process that holds the lock, as it wrote itself into the lock's file.
pub(super) struct Holder {
    pub(super) pid: String,
    is_service: bool,
}

/// Reads the holder from the lock's file.
pub(super) fn holder(path: &Path) -> Holder {
    let mut text = String::new();
    let _ = File::open(path).and_then(|file| file.take(100).read_to_string(&mut text));
    let mut words = text.split_whitespace();
    let pid = words.next().unwrap_or("unknown").to_owned();
    Holder {
        pid,
        is_service: words.next() == Some("serve"),
    }
}

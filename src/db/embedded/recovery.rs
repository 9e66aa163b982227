//! The traces of a PostgreSQL in its data folder: whether it takes connections, and what is left of
//! one whose service was killed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::EmbeddedError;

/// How often the state of a starting or stopping PostgreSQL is read.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A fast shutdown writes a checkpoint, which may take a while on a slow disk.
pub(super) const FAST_STOP: Duration = Duration::from_secs(30);
/// The time for an immediate shutdown, after which PostgreSQL recovers from its log at its start.
pub(super) const IMMEDIATE_STOP: Duration = Duration::from_secs(5);

/// The process that takes connections on this cluster, if one does. PostgreSQL writes its state
/// into `postmaster.pid`: the process first, its readiness in line eight.
pub(super) fn ready_process(cluster: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.trim().parse().ok()?;
    (lines.nth(6)?.trim() == "ready").then(|| Pid::from_raw(pid))
}

/// Ends what is left of a service that was killed. A PostgreSQL that still runs on this cluster is
/// signalled, as its watchdog should have done, and waited for. A lock file is removed if its
/// process id belongs to another process by now, which PostgreSQL would take for a server.
pub(super) fn stop_orphan(cluster: &Path) -> Result<(), EmbeddedError> {
    let file = cluster.join("postmaster.pid");
    let Ok(text) = std::fs::read_to_string(&file) else {
        return Ok(());
    };
    let Some(pid) = text
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<i32>().ok())
        .filter(|pid| *pid > 1)
    else {
        return Ok(());
    };
    match Owner::of(pid, cluster) {
        // PostgreSQL decides by itself, and rather refuses to start than run twice.
        Owner::Unknown => return Ok(()),
        Owner::Another => {
            tracing::info!(pid, "removing the lock file of a PostgreSQL that is gone");
            return match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(EmbeddedError::io("remove", &file)(error))
                }
                _ => Ok(()),
            };
        }
        Owner::Postgres => {}
    }
    tracing::warn!(
        pid,
        "a PostgreSQL of a service that was killed still runs on this data: taking over"
    );
    for (signal, patience) in [
        (Signal::SIGINT, FAST_STOP),
        (Signal::SIGQUIT, IMMEDIATE_STOP),
    ] {
        let _ = kill(Pid::from_raw(pid), signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if Owner::of(pid, cluster) != Owner::Postgres {
                return Ok(());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
    Err(EmbeddedError::OrphanStays {
        pid,
        cluster: cluster.to_path_buf(),
    })
}

/// The process whose id stands in a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A PostgreSQL server that runs on the cluster.
    Postgres,
    /// Certainly not that: there is no such process, or another one has its id by now.
    Another,
    /// A process that cannot be looked into.
    Unknown,
}

impl Owner {
    fn of(pid: i32, cluster: &Path) -> Self {
        if kill(Pid::from_raw(pid), None) == Err(nix::Error::ESRCH) {
            return Self::Another;
        }
        if Path::new("/proc/self").exists() {
            Self::by_proc(&Path::new("/proc").join(pid.to_string()), cluster)
        } else {
            Self::by_ps(pid, cluster)
        }
    }

    /// A postmaster works in its data folder. Folders are compared as the file system identifies
    /// them: one may have several paths, by links and by mounts.
    fn by_proc(process: &Path, cluster: &Path) -> Self {
        let Ok(line) = std::fs::read(process.join("cmdline")) else {
            return Self::Unknown;
        };
        // A process that has ended, and is not waited for, has no command line any more.
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = program.rsplit(|byte| *byte == b'/').next();
        if name != Some(b"postgres") {
            return Self::Another;
        }
        let identity = |folder: &Path| {
            let meta = std::fs::metadata(folder).ok()?;
            Some((meta.dev(), meta.ino()))
        };
        match (identity(&process.join("cwd")), identity(cluster)) {
            (Some(here), Some(there)) if here == there => Self::Postgres,
            (Some(_), Some(_)) => Self::Another,
            _ => Self::Unknown,
        }
    }

    fn by_ps(pid: i32, cluster: &Path) -> Self {
        let output = Command::new("ps")
            .args(["-o", "args=", "-p", &pid.to_string()])
            .output();
        match output {
            Ok(output) => {
                let line = String::from_utf8_lossy(&output.stdout);
                if line.contains("postgres") && line.contains(&*cluster.to_string_lossy()) {
                    Self::Postgres
                } else {
                    Self::Another
                }
            }
            Err(_) => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_postgres_on_this_cluster_is_one() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(Owner::of(me, Path::new("/")), Owner::Another);
        assert_eq!(Owner::of(i32::MAX, Path::new("/")), Owner::Another);
    }

    #[test]
    fn a_cluster_is_known_by_every_path_and_a_closed_process_by_none() {
        // The folder of a process, as the kernel shows it.
        let process = tempfile::tempdir().unwrap();
        let data = tempfile::tempdir().unwrap();
        let (real, other) = (data.path().join("real"), data.path().join("other"));
        let link = data.path().join("link");
        std::fs::create_dir(&real).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let cmdline = process.path().join("cmdline");
        std::fs::write(&cmdline, "/usr/bin/postgres\0-D\0/x\0").unwrap();
        let of = |cluster: &Path| Owner::by_proc(process.path(), cluster);
        // Not to be seen where it works: nothing is taken for granted.
        assert_eq!(of(&real), Owner::Unknown);
        std::os::unix::fs::symlink(&real, process.path().join("cwd")).unwrap();
        assert_eq!(of(&real), Owner::Postgres);
        assert_eq!(of(&link), Owner::Postgres);
        assert_eq!(of(&other), Owner::Another);
        std::fs::write(&cmdline, "vi\0postgres.conf\0").unwrap();
        assert_eq!(of(&real), Owner::Another);
        std::fs::write(&cmdline, "").unwrap();
        assert_eq!(of(&real), Owner::Another);
        std::fs::remove_file(&cmdline).unwrap();
        assert_eq!(of(&real), Owner::Unknown);
    }

    #[test]
    fn a_lock_file_whose_number_is_somebody_elses_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("postmaster.pid");
        std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
        stop_orphan(dir.path()).unwrap();
        assert!(!file.exists());
    }
}

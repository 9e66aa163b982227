//! The traces of a PostgreSQL in its data folder: whether it takes connections, and what is left of
//! one whose service was killed.

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

/// What is left of a service that was killed: a PostgreSQL on this cluster that is about to stop
/// (its watchdog told it so) is told again and waited for; the file of one that is gone is removed
/// if its number is somebody else's by now, which PostgreSQL itself would take for a running one.
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
    if !is_postgres_on(pid, cluster) {
        tracing::info!(pid, "removing the lock file of a PostgreSQL that is gone");
        return match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EmbeddedError::io("remove", &file)(error))
            }
            _ => Ok(()),
        };
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
            if !is_postgres_on(pid, cluster) {
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

/// Whether this process is a PostgreSQL server that runs on this cluster.
fn is_postgres_on(pid: i32, cluster: &Path) -> bool {
    // Permission denied is somebody else's process, so not ours; a zombie has no folder and no
    // command line any more.
    let proc = Path::new("/proc").join(pid.to_string());
    if Path::new("/proc/self").exists() {
        let is_postgres = std::fs::read(proc.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("postgres"));
        // A postmaster works in its data directory.
        return is_postgres
            && std::fs::read_link(proc.join("cwd")).is_ok_and(|folder| folder == cluster);
    }
    let output = Command::new("ps")
        .args(["-o", "args=", "-p", &pid.to_string()])
        .output();
    output.is_ok_and(|output| {
        let line = String::from_utf8_lossy(&output.stdout);
        line.contains("postgres") && line.contains(&*cluster.to_string_lossy())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_postgres_on_this_cluster_is_one() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(!is_postgres_on(me, Path::new("/")));
        assert!(!is_postgres_on(i32::MAX, Path::new("/")));
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

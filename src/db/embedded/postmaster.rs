//! The running PostgreSQL: started, watched, started again where it died, and stopped.
//!
//! It never outlives this process. Beside it runs a small watchdog that reads a pipe of which only
//! this process holds the other end: at end of file, which comes even where this process was killed
//! with SIGKILL, it stops PostgreSQL cleanly.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::EmbeddedError;
use super::files::Places;
use super::programs::Programs;

/// How often the state of a starting or stopping PostgreSQL is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A fast shutdown writes a checkpoint, which may take a while on a slow disk.
const FAST_STOP: Duration = Duration::from_secs(30);
/// After that it is told to stop at once, and recovers from its log at the next start.
const IMMEDIATE_STOP: Duration = Duration::from_secs(5);

/// A PostgreSQL that runs until it is stopped or dropped.
#[derive(Debug)]
pub(super) struct Postmaster {
    shared: Arc<Shared>,
    supervisor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The running process; none between a death and the next start.
    pid: Option<Pid>,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is one assignment, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Postmaster {
    /// Starts PostgreSQL on a configured cluster and waits until it takes connections. The caller
    /// holds the lock of the data directory, so whatever runs on it already has lost its parent and
    /// is stopped first.
    pub(super) fn start(places: Places, programs: Programs) -> Result<Self, EmbeddedError> {
        stop_orphan(&places.cluster)?;
        let shared = Arc::new(Shared::default());
        let running = Running::spawn(&places, &programs, &shared)?;
        let supervisor = std::thread::Builder::new()
            .name("postgresql".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || supervise(&shared, running, &places, &programs)
            })
            .map_err(|error| EmbeddedError::Program {
                program: "postgres".to_owned(),
                said: error.to_string(),
            })?;
        Ok(Self {
            shared,
            supervisor: Some(supervisor),
        })
    }

    /// Stops it: sessions are ended, what is committed is on disk, and the process is gone when
    /// this returns.
    pub(super) fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        let Some(supervisor) = self.supervisor.take() else {
            return;
        };
        for (signal, patience) in [
            (Signal::SIGINT, FAST_STOP),
            (Signal::SIGQUIT, IMMEDIATE_STOP),
            (Signal::SIGKILL, IMMEDIATE_STOP),
        ] {
            let mut state = self.shared.lock();
            state.stopping = true;
            self.shared.changed.notify_all();
            if let Some(pid) = state.pid {
                // Fails only where it is gone already.
                let _ = kill(pid, signal);
            }
            drop(state);
            let deadline = Instant::now() + patience;
            while !supervisor.is_finished() && Instant::now() < deadline {
                std::thread::sleep(LOOK_EVERY);
            }
            if supervisor.is_finished() {
                break;
            }
            tracing::warn!(?signal, "PostgreSQL has not stopped yet");
        }
        if supervisor.is_finished() {
            let _ = supervisor.join();
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// Waits for the process; where it died by itself, starts it again, and again with growing pauses.
fn supervise(shared: &Shared, first: Running, places: &Places, programs: &Programs) {
    let mut running = Some(first);
    let mut pause = Duration::from_millis(100);
    loop {
        if let Some(process) = running.take() {
            let born = Instant::now();
            let status = process.wait();
            shared.lock().pid = None;
            if shared.lock().stopping {
                return;
            }
            tracing::error!(status, "PostgreSQL ended by itself, starting it again");
            if born.elapsed() > Duration::from_secs(60) {
                pause = Duration::from_millis(100);
            }
        }
        let state = shared.lock();
        let (state, _) = shared
            .changed
            .wait_timeout_while(state, pause, |state| !state.stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stopping {
            return;
        }
        drop(state);
        pause = (pause * 2).min(Duration::from_secs(5));
        match stop_orphan(&places.cluster).and_then(|()| Running::spawn(places, programs, shared)) {
            Ok(process) => {
                tracing::info!("PostgreSQL runs again");
                running = Some(process);
            }
            Err(error) => {
                shared.lock().pid = None;
                tracing::error!(%error, "PostgreSQL does not start");
            }
        }
    }
}

/// One process of PostgreSQL and its watchdog.
#[derive(Debug)]
struct Running {
    child: Child,
    watchdog: Child,
    reader: Option<JoinHandle<()>>,
}

impl Running {
    /// Returns when it takes connections. A stop reaches it before that, too: it may have much to
    /// recover.
    fn spawn(places: &Places, programs: &Programs, shared: &Shared) -> Result<Self, EmbeddedError> {
        let failed = |said: String| EmbeddedError::Program {
            program: "postgres".to_owned(),
            said,
        };
        let mut child = places
            .command(programs, "postgres")
            .arg("-D")
            .arg(&places.cluster)
            // A group of its own: Ctrl-C in a terminal is for the service, which stops PostgreSQL
            // last.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let watchdog = watch(&child).inspect_err(|_| {
            let _ = child.kill();
            let _ = child.wait();
        });
        let watchdog =
            watchdog.map_err(|error| failed(format!("no watchdog beside it: {error}")))?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let reader = child.stderr.take().map(|stderr| {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log_line(&line);
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    said.push_back(line);
                    if said.len() > 20 {
                        said.pop_front();
                    }
                }
            })
        });
        let mut running = Self {
            child,
            watchdog,
            reader,
        };
        {
            let mut state = shared.lock();
            state.pid = Some(running.pid());
            if state.stopping {
                // The signal of the stop came while there was no process to take it.
                let _ = kill(running.pid(), Signal::SIGINT);
            }
        }
        let started = Instant::now();
        let mut next_word = Duration::from_secs(10);
        while !is_ready(&places.cluster, running.pid()) {
            if let Some(status) = running
                .child
                .try_wait()
                .map_err(|error| failed(error.to_string()))?
            {
                running.dismiss_watchdog();
                if let Some(reader) = running.reader.take() {
                    let _ = reader.join();
                }
                let said = said.lock().unwrap_or_else(PoisonError::into_inner);
                let said: Vec<&str> = said.iter().map(String::as_str).collect();
                return Err(failed(format!("{status}\n{}", said.join("\n"))));
            }
            if started.elapsed() > next_word {
                tracing::warn!(
                    seconds = started.elapsed().as_secs(),
                    "PostgreSQL is still starting (recovery after a crash?)"
                );
                next_word *= 2;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(running)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits until it ends, and says how.
    fn wait(mut self) -> String {
        let status = self
            .child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        self.dismiss_watchdog();
        status
    }

    /// A line tells the watchdog that all is well.
    fn dismiss_watchdog(&mut self) {
        if let Some(mut stdin) = self.watchdog.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.watchdog.wait();
    }
}

/// At end of file of the pipe that only this process can write to, interrupts PostgreSQL: a fast,
/// clean shutdown.
fn watch(postgres: &Child) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .arg("-c")
        .arg("read line || kill -INT \"$1\"")
        .args(["lockable-watchdog", &postgres.id().to_string()])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

fn is_ready(cluster: &Path, pid: Pid) -> bool {
    ready_process(cluster) == Some(pid)
}

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
fn stop_orphan(cluster: &Path) -> Result<(), EmbeddedError> {
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
            std::thread::sleep(LOOK_EVERY);
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

/// PostgreSQL's lines, in the service's log. ERROR is a statement that failed: whoever sent it has
/// the error itself.
fn log_line(line: &str) {
    let (severity, text) = line
        .split_once(':')
        .map_or(("", line), |(severity, text)| (severity, text.trim()));
    match severity {
        // A stop, ours or an administrator's, ends sessions: that is no news.
        "FATAL" if text.starts_with("terminating connection due to administrator command") => {
            tracing::debug!(target: "postgresql", "{text}");
        }
        "PANIC" => tracing::error!(target: "postgresql", "{text}"),
        "FATAL" | "WARNING" => tracing::warn!(target: "postgresql", "{text}"),
        _ => tracing::debug!(target: "postgresql", "{line}"),
    }
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

//! The running PostgreSQL: started, watched, started again where it died, and stopped.
//!
//! It never outlives this process. Beside it runs a small watchdog that reads a pipe of which only
//! this process holds the other end: at end of file, which comes even where this process was killed
//! with SIGKILL, it stops PostgreSQL cleanly.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::children;
use super::error::EmbeddedError;
use super::files::Places;
use super::programs::Programs;
use super::recovery::{FAST_STOP, IMMEDIATE_STOP, POLL_INTERVAL, ready_process, stop_orphan};

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
    /// The running process; `None` between a death and the next start.
    pid: Option<Pid>,
    is_stopping: bool,
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
            state.is_stopping = true;
            self.shared.changed.notify_all();
            if let Some(pid) = state.pid {
                // Fails only where it is gone already.
                let _ = kill(pid, signal);
            }
            drop(state);
            let deadline = Instant::now() + patience;
            while !supervisor.is_finished() && Instant::now() < deadline {
                std::thread::sleep(POLL_INTERVAL);
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

/// Waits for the end of the process, and starts it again until the stop, with growing pauses.
fn supervise(shared: &Shared, first: Running, places: &Places, programs: &Programs) {
    let mut running = Some(first);
    let mut pause = Duration::from_millis(100);
    loop {
        if let Some(process) = running.take() {
            let born = Instant::now();
            let status = process.wait();
            shared.lock().pid = None;
            if shared.lock().is_stopping {
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
            .wait_timeout_while(state, pause, |state| !state.is_stopping)
            .unwrap_or_else(PoisonError::into_inner);
        if state.is_stopping {
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
    /// Returns when it takes connections. A stop is heard before that, too, because a recovery may
    /// take long.
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
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        let reader = child.stderr.take().map(|stderr| {
            let last_lines = Arc::clone(&last_lines);
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log_line(&line);
                    let mut last_lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
                    last_lines.push_back(line);
                    if last_lines.len() > 20 {
                        last_lines.pop_front();
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
            if state.is_stopping {
                // The signal of the stop came while there was no process to take it.
                let _ = kill(running.pid(), Signal::SIGINT);
            }
        }
        let started = Instant::now();
        let mut next_warning = Duration::from_secs(10);
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
                let last_lines = last_lines.lock().unwrap_or_else(PoisonError::into_inner);
                let last_lines: Vec<&str> = last_lines.iter().map(String::as_str).collect();
                return Err(failed(format!("{status}\n{}", last_lines.join("\n"))));
            }
            if started.elapsed() > next_warning {
                tracing::warn!(
                    seconds = started.elapsed().as_secs(),
                    "PostgreSQL is still starting (recovery after a crash?)"
                );
                next_warning *= 2;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(running)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits until it ends, and returns its exit status in words.
    fn wait(mut self) -> String {
        let status = self
            .child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        self.dismiss_watchdog();
        status
    }

    /// Ends the watchdog: a line tells it that nothing is left to stop.
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
    children::command("/bin/sh")
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

/// Writes a line of PostgreSQL's to the service's log. An ERROR is about one statement, and its
/// sender has got it already.
fn log_line(line: &str) {
    let (severity, text) = line
        .split_once(':')
        .map_or(("", line), |(severity, text)| (severity, text.trim()));
    match severity {
        // A stop, ours or an administrator's, ends sessions: nobody needs to be warned of it.
        "FATAL" if text.starts_with("terminating connection due to administrator command") => {
            tracing::debug!(target: "postgresql", "{text}");
        }
        "PANIC" => tracing::error!(target: "postgresql", "{text}"),
        "FATAL" | "WARNING" => tracing::warn!(target: "postgresql", "{text}"),
        _ => tracing::debug!(target: "postgresql", "{line}"),
    }
}

//! The service as it is shipped: the binary, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::client::{Client, TokenClient};

/// The binary under test, without an environment that would change its settings.
pub(crate) fn lockable() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockable"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("LOCKABLE_") || name.starts_with("PG") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// The binary as [`lockable`], started by a shell that runs these words before it becomes it.
pub(crate) fn lockable_after(shell_words: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    let binary = lockable();
    command
        .args(["-c", &format!("{shell_words}; exec \"$0\" \"$@\"")])
        .arg(binary.get_program())
        .stdin(Stdio::null());
    for (name, value) in binary.get_envs() {
        if value.is_none() {
            command.env_remove(name);
        }
    }
    command
}

/// `lockable serve`, running. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Mutex<Child>,
    pid: Pid,
    /// The socket address on which it listens.
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Process {
    /// Starts it, on ports that the system chooses, and waits until it listens. The caller adds
    /// settings: at least the place of the data.
    pub(crate) fn start(settings: impl FnOnce(&mut Command)) -> Process {
        Self::start_by(lockable(), settings)
    }

    /// As [`Process::start`], by a command that becomes the binary.
    pub(crate) fn start_by(mut command: Command, settings: impl FnOnce(&mut Command)) -> Process {
        command.args([
            "serve",
            "--log-format",
            "json",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ]);
        settings(&mut command);
        let has_database = command.get_envs().any(|(name, _)| name == "DATABASE_URL")
            || command
                .get_args()
                .any(|argument| argument == "--database-url");
        if !has_database {
            // It runs the embedded one.
            super::cluster::may_start_cluster();
        }
        let scheme = if command.get_args().any(|argument| argument == "--tls-cert") {
            "https"
        } else {
            "http"
        };
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let log = Arc::new(Log::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn({
            let log = log.clone();
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    log.lines.lock().unwrap().push(line);
                    log.grown.notify_all();
                }
            }
        });
        let mut process = Process {
            child: Mutex::new(child),
            pid,
            address: ([127, 0, 0, 1], 0).into(),
            scheme,
            log,
        };
        process.address = process.wait_for_line("that it listens", |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let fields = if line["fields"].is_object() {
                &line["fields"]
            } else {
                &line
            };
            (fields["message"] == "listening").then(|| fields["address"].as_str()?.parse().ok())?
        });
        process
    }

    /// Waits until `read` finds a value in a line of its log. Panics with `what` if none comes.
    pub(crate) fn wait_for_line<T>(&self, what: &str, read: impl Fn(&str) -> Option<T>) -> T {
        let started = Instant::now();
        let mut lines = self.log.lines.lock().unwrap();
        let mut seen = 0;
        loop {
            if let Some(answer) = lines[seen..].iter().find_map(|line| read(line)) {
                return answer;
            }
            seen = lines.len();
            let left = super::wait::DEADLINE.saturating_sub(started.elapsed());
            let ended = self.child.lock().unwrap().try_wait().unwrap();
            assert!(
                !left.is_zero() && ended.is_none(),
                "its log does not say {what} ({ended:?}):\n{}",
                lines.join("\n")
            );
            lines = self
                .log
                .grown
                .wait_timeout(lines, left.min(std::time::Duration::from_millis(100)))
                .unwrap()
                .0;
        }
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    /// Its URL, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// A client without a token.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.url())
    }

    /// A client with a token.
    pub(crate) fn token(&self, token: &str) -> TokenClient {
        TokenClient::new(self.anonymous(), token.to_owned())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal: `SIGTERM` to drain, `SIGSTOP` to freeze, `SIGKILL` to crash.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(&self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                return status;
            }
            assert!(
                started.elapsed() < super::wait::DEADLINE,
                "it does not end:\n{}",
                self.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self
            .child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        child.kill().ok();
        child.wait().ok();
    }
}

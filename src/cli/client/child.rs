//! The command that `lockable run` runs.
//!
//! It is a process group of its own, so that what it has started is told to end, and killed, with
//! it: a shell that ends and leaves its programs working without the lock would be worth nothing. A
//! group of its own is in the terminal's background, so the terminal is handed over to it as soon
//! as it asks for it (by being stopped for reading), and a stop (^Z) goes on to the job of the
//! calling shell that this process belongs to.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::lease::Lease;

/// Between two looks whether the group has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The running command, and a watchdog that tells it to end should this process be killed.
pub(super) struct Child {
    process: tokio::process::Child,
    /// The command's number, which is its group's too.
    group: Pid,
    watchdog: std::process::Child,
    terminal: Option<Terminal>,
    /// It has asked for the terminal.
    wants_terminal: bool,
    has_terminal: bool,
}

impl Child {
    pub(super) fn spawn(command: &[OsString], lease: &Lease) -> std::io::Result<Self> {
        let mut process = tokio::process::Command::new(&command[0]);
        process
            .args(&command[1..])
            .process_group(0)
            .kill_on_drop(true)
            .env("LOCKABLE_FENCING_TOKEN", lease.fencing_token.to_string())
            .env("LOCKABLE_LEASE_ID", lease.id.to_string());
        let process = process.spawn()?;
        let id = process.id().unwrap_or_default();
        let watchdog = Command::new("/bin/sh")
            .args([
                "-c",
                "read line || kill -s TERM -- \"-$1\"",
                "lockable-watchdog",
                &id.to_string(),
            ])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let group = Pid::from_raw(id.cast_signed());
        Ok(Self {
            process,
            group,
            watchdog,
            terminal: Terminal::open(),
            wants_terminal: false,
            has_terminal: false,
        })
    }

    /// Sends it to the command and to what it has started.
    pub(super) fn signal(&self, signal: Signal) {
        // Fails only where all have ended already.
        let _ = killpg(self.group, signal);
    }

    /// Waits until the command has ended; what it has left running in the background is its affair.
    /// Returns the exit code.
    pub(super) async fn ended(&mut self) -> u8 {
        let status = self.process.wait().await;
        self.clean_up();
        exit_code(status)
    }

    /// Tells the whole group to end, and kills what is left of it at `kill_at`.
    pub(super) async fn end(&mut self, kill_at: Instant) {
        self.signal(Signal::SIGTERM);
        // Who is stopped does not hear.
        self.signal(Signal::SIGCONT);
        let gone = async {
            let _ = self.process.wait().await;
            while killpg(self.group, None).is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout_at(kill_at.into(), gone).await.is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.process.wait().await;
        }
        self.clean_up();
    }

    fn clean_up(&mut self) {
        self.take_terminal_back();
        if let Some(mut stdin) = self.watchdog.stdin.take() {
            let _ = stdin.write_all(b"\n");
        }
        let _ = self.watchdog.wait();
    }

    /// Does what one of the signals that are about stopping and going on asks for.
    pub(super) fn control(&mut self, signal: Signal) {
        match signal {
            Signal::SIGCHLD => {
                let state = waitid(
                    Id::Pid(self.group),
                    WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG,
                );
                if let Ok(WaitStatus::Stopped(_, by)) = state {
                    self.stopped(by);
                }
            }
            Signal::SIGCONT => self.go_on(),
            other => self.signal(other),
        }
    }

    /// The command was stopped.
    fn stopped(&mut self, by: Signal) {
        let asks = matches!(by, Signal::SIGTTIN | Signal::SIGTTOU);
        let Some(terminal) = self
            .terminal
            .as_ref()
            .filter(|_| asks || by == Signal::SIGTSTP)
        else {
            // Somebody's own doing, who will have it go on.
            return;
        };
        self.wants_terminal |= asks;
        let was_ours = terminal.is_ours();
        if !(asks && was_ours) {
            self.take_terminal_back();
            // Stops this process, and those which the shell counts to the same job, as if all were
            // one group. Not for SIGTSTP, which is caught; where no shell is there to have the job
            // go on, the system does not stop it.
            let _ = kill(Pid::from_raw(0), Signal::SIGTTIN);
        }
        if !asks || self.terminal.as_ref().is_some_and(Terminal::is_ours) {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        if let Some(terminal) = self
            .terminal
            .as_ref()
            .filter(|it| self.wants_terminal && it.is_ours())
        {
            terminal.give(self.group);
            self.has_terminal = true;
        }
        self.signal(Signal::SIGCONT);
    }

    fn take_terminal_back(&mut self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|_| self.has_terminal) {
            terminal.give(getpgrp());
            self.has_terminal = false;
        }
    }
}

/// The terminal that this process was started from.
struct Terminal(File);

impl Terminal {
    fn open() -> Option<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()
            .map(Self)
    }

    /// Whether this process is in its foreground.
    fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0) == Ok(getpgrp())
    }

    /// Makes this its foreground.
    fn give(&self, group: Pid) {
        // From the background this stops who does not block the signal for it.
        let Ok(mask) = SigSet::from_iter([Signal::SIGTTOU]).thread_swap_mask(SigmaskHow::SIG_BLOCK)
        else {
            return;
        };
        let _ = tcsetpgrp(&self.0, group);
        let _ = mask.thread_set_mask();
    }
}

/// What a shell says of how it ended.
fn exit_code(status: std::io::Result<ExitStatus>) -> u8 {
    let code = status.map_or(1, |status| {
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    });
    u8::try_from(code).unwrap_or(1)
}

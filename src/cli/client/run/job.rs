//! The job of `lockable run`, which its watchdog starts and ends.
//!
//! The command is a process group of its own. Such a group is in the terminal's background, so the
//! terminal is handed over to it as soon as it asks for it (by being stopped for reading), and a
//! stop (^Z) goes on to the job of the calling shell that this process belongs to.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgrp, getpid};

use super::terminal::Terminal;
use crate::cli::client::clock;
use crate::cli::client::clock::BootInstant;
use crate::cli::client::lease::Deadlines;
use crate::cli::client::processes::{self, ProcessId, Snapshot, send_signal};
use crate::cli::client::protocol::{self, Order, Receiver, Report, Sender};

/// How long the watchdog may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks whether everything was killed.
const LOOK: Duration = Duration::from_millis(25);

/// A watchdog, and the job that it starts when it is told to.
#[derive(Debug)]
pub(super) struct Job {
    orders: Sender,
    reports: Receiver,
    /// Children that this process had before: it may have been started by `exec` in a shell.
    not_ours: HashSet<ProcessId>,
    command: Option<Pid>,
    has_command_ended: bool,
    terminal: Option<Terminal>,
    /// The command has asked for the terminal.
    wants_terminal: bool,
    has_terminal: bool,
}

/// The command was not started.
#[derive(Debug)]
pub(super) enum StartError {
    /// There is no such command.
    Missing(String),
    /// It is there but cannot be run.
    CannotRun(String),
    /// The watchdog has ended.
    NoWatchdog,
}

impl Job {
    /// Starts the watchdog, and waits until it has all that it needs.
    ///
    /// # Errors
    /// If the system refuses it a process, a descriptor, or `/proc`.
    pub(super) async fn prepare(command: &[OsString]) -> io::Result<Self> {
        processes::check_proc()?;
        // Should the watchdog be killed, the job comes to this process.
        prctl::set_child_subreaper(true)?;
        let own = Snapshot::take()?;
        let not_ours = own.children_of(getpid().as_raw()).iter().map(|it| it.id);
        let not_ours = not_ours.collect();
        let (ours, theirs) = UnixStream::pair()?;
        protocol::send_file(&ours, io::stdin())?;
        // This very program, even if its file has been replaced meanwhile.
        Command::new("/proc/self/exe")
            .arg0("lock-watchdog")
            .args(["watchdog", "--"])
            .args(command)
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        let (orders, mut reports) = protocol::channel(ours)?;
        let ready = clock::timeout_at(BootInstant::now() + START_TIMEOUT, reports.next());
        match ready.await {
            Some(Some(Report::Ready)) => {}
            _ => return Err(io::Error::other("it ended before it was ready")),
        }
        Ok(Self {
            orders,
            reports,
            not_ours,
            command: None,
            has_command_ended: false,
            terminal: Terminal::open(),
            wants_terminal: false,
            has_terminal: false,
        })
    }

    /// Starts the command.
    pub(super) async fn start(
        &mut self,
        environment: Vec<(String, String)>,
        deadlines: Deadlines,
        grace: Duration,
    ) -> Result<(), StartError> {
        self.orders.send(&Order::Start {
            environment,
            deadlines,
            grace,
        });
        match self.reports.next().await {
            Some(Report::Started { pid }) => {
                self.command = Some(Pid::from_raw(pid));
                Ok(())
            }
            Some(Report::NotStarted {
                is_missing: true,
                message,
            }) => Err(StartError::Missing(message)),
            Some(Report::NotStarted { message, .. }) => Err(StartError::CannotRun(message)),
            _ => Err(StartError::NoWatchdog),
        }
    }

    /// The next report; `None` if the watchdog was killed.
    pub(super) async fn next_report(&mut self) -> Option<Report> {
        self.reports.next().await
    }

    /// The lease was renewed.
    pub(super) fn renew(&self, deadlines: Deadlines) {
        self.orders.send(&Order::Renewed(deadlines));
    }

    /// Ends the job, because the lease is lost.
    pub(super) fn end(&self) {
        self.orders.send(&Order::End);
    }

    /// Passes a signal on.
    pub(super) fn signal(&self, signal: Signal) {
        self.orders.send(&Order::Signal(signal as i32));
    }

    /// Does what a signal of job control asks for.
    pub(super) fn control(&mut self, signal: Signal) {
        match signal {
            Signal::SIGCONT => self.go_on(),
            // Nobody is left who would be stopped with this process.
            Signal::SIGTSTP if self.has_command_ended => stop_this_job(),
            other => self.signal(other),
        }
    }

    /// The command was stopped.
    pub(super) fn stopped(&mut self, by: i32) {
        let by = Signal::try_from(by).ok();
        let asks = matches!(by, Some(Signal::SIGTTIN | Signal::SIGTTOU));
        let Some(terminal) = self
            .terminal
            .as_ref()
            .filter(|_| asks || by == Some(Signal::SIGTSTP))
        else {
            // Somebody's own doing, who will have it go on.
            return;
        };
        self.wants_terminal |= asks;
        let was_ours = terminal.is_ours();
        if !(asks && was_ours) {
            self.take_terminal_back();
            stop_this_job();
        }
        if !asks || self.terminal.as_ref().is_some_and(Terminal::is_ours) {
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        if let (Some(terminal), Some(command)) = (
            self.terminal
                .as_ref()
                .filter(|it| self.wants_terminal && it.is_ours()),
            self.command,
        ) {
            terminal.give(command);
            self.has_terminal = true;
        }
        self.signal(Signal::SIGCONT);
    }

    /// The command has ended; what it has started may run on.
    pub(super) fn command_ended(&mut self) {
        self.has_command_ended = true;
        self.take_terminal_back();
    }

    /// Makes the group of this process the terminal's foreground again.
    fn take_terminal_back(&mut self) {
        if let Some(terminal) = self.terminal.as_ref().filter(|_| self.has_terminal) {
            terminal.give(getpgrp());
            self.has_terminal = false;
        }
    }

    /// Kills everything that the killed watchdog has left to this process.
    pub(super) async fn kill_remains(&self) {
        while let Ok(snapshot) = Snapshot::take() {
            let is_left_out = |process: &processes::Process| self.not_ours.contains(&process.id);
            let remains = snapshot.descendants_of(getpid().as_raw(), is_left_out);
            let killed = remains
                .iter()
                .filter(|it| send_signal(it.id, Signal::SIGKILL));
            if killed.count() == 0 {
                return;
            }
            clock::sleep(LOOK).await;
        }
    }
}

/// Stops this process, and those which the shell counts to the same job, as if all were one group.
/// Not with SIGTSTP, which is caught. If no shell is there to have the job go on, the system does
/// not stop it.
fn stop_this_job() {
    let _ = kill(Pid::from_raw(0), Signal::SIGTTIN);
}

impl Drop for Job {
    fn drop(&mut self) {
        self.take_terminal_back();
    }
}

//! The job: the command and all that descends from it.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid};

use super::daemon::{Streams, is_daemon};
use crate::cli::client::clock::BootInstant;
use crate::cli::client::lease::Deadlines;
use crate::cli::client::processes::{
    self, ChildChange, NoChange, Process, ProcessId, Snapshot, send_signal,
};
use crate::cli::client::protocol::{Report, Sender};

/// Between two looks at a job that is told to end.
const LOOK_WHILE_ENDING: Duration = Duration::from_millis(25);
/// Between two looks at processes that the command has left behind. Most ends are noticed at once,
/// as ends of children.
const LOOK_AT_REMAINS: Duration = Duration::from_millis(250);
/// Looks in a row that find nothing but daemons, before the job counts as ended: one look may miss
/// a process whose parent ends meanwhile.
const LOOKS_TO_BELIEVE: u8 = 2;

/// The job.
#[derive(Debug)]
pub(super) struct Job {
    /// The command's process id, which is its group's too.
    command: i32,
    has_command_ended: bool,
    has_children: bool,
    own_pid: i32,
    own_session: i32,
    streams: Streams,
    deadlines: Deadlines,
    grace: Duration,
    phase: Phase,
    /// Processes that a signal was passed on to: they belong to the job whatever they do then.
    told_to_end: HashSet<ProcessId>,
    /// Processes that were told to end because the lease is lost.
    told_at_loss: HashSet<ProcessId>,
    looks_without_remains: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The lease is held.
    Held,
    /// The lease is lost or about to be: everything is told to end.
    Ending,
    /// Everything is killed.
    Killing,
}

/// The outcome of a look at the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It runs; look again at this instant, or when a child has changed.
    Again(BootInstant),
    /// Nothing of it runs.
    Finished,
}

impl Job {
    pub(super) fn new(
        command: i32,
        deadlines: Deadlines,
        grace: Duration,
        streams: Streams,
    ) -> Self {
        let own_pid = getpid().as_raw();
        Self {
            command,
            has_command_ended: false,
            has_children: true,
            own_pid,
            own_session: processes::read(own_pid).map_or(0, |it| it.session),
            streams,
            deadlines,
            grace,
            phase: Phase::Held,
            told_to_end: HashSet::new(),
            told_at_loss: HashSet::new(),
            looks_without_remains: 0,
        }
    }

    /// The lease was renewed. Changes nothing for a job that is being ended.
    pub(super) fn renew(&mut self, deadlines: Deadlines) {
        if self.phase == Phase::Held {
            self.deadlines = deadlines;
        }
    }

    /// Ends the job: SIGTERM now, SIGKILL after the grace or at the deadline.
    pub(super) fn end(&mut self) {
        if self.phase == Phase::Held {
            self.phase = Phase::Ending;
            let kill_at = BootInstant::now() + self.grace;
            self.deadlines.kill_at = self.deadlines.kill_at.min(kill_at);
        }
    }

    /// Passes a signal on: to the command's process group, and those that ask for an end to all of
    /// the job.
    pub(super) fn forward(&mut self, signal: i32) {
        let signal = match Signal::try_from(signal) {
            // Shells start their background jobs with these ignored. Once the command has ended,
            // nothing but such jobs would keep the caller waiting.
            Ok(Signal::SIGINT | Signal::SIGQUIT) if self.has_command_ended => Signal::SIGTERM,
            Ok(signal) => signal,
            Err(_) => return,
        };
        let asks_for_end = matches!(
            signal,
            Signal::SIGTERM | Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT
        );
        let everyone = if asks_for_end {
            self.processes(true).unwrap_or_default()
        } else {
            Vec::new()
        };
        // Fails only if nobody is left in it.
        let _ = killpg(Pid::from_raw(self.command), signal);
        for process in everyone {
            self.told_to_end.insert(process.id);
            if process.group != self.command {
                send_signal(process.id, signal);
            }
        }
    }

    /// Reaps children that have ended: the command, and orphans of the job.
    pub(super) fn reap(&mut self, reports: &Sender) {
        loop {
            match processes::next_change() {
                Ok(ChildChange::Ended { pid, code }) if pid == self.command => {
                    self.has_command_ended = true;
                    reports.send(&Report::CommandEnded { code });
                }
                Ok(ChildChange::Stopped { pid, signal }) if pid == self.command => {
                    reports.send(&Report::Stopped { signal });
                }
                Ok(_) => {}
                Err(reason) => {
                    // Whatever descends from this process is, or descends from, a child of it.
                    self.has_children = reason == NoChange::Yet;
                    return;
                }
            }
        }
    }

    /// Looks at the job, and does what its phase and the deadlines ask for.
    pub(super) fn look(&mut self, reports: &Sender) -> Look {
        if !self.has_children {
            return Look::Finished;
        }
        if self.phase == Phase::Held && self.deadlines.end_at.has_passed() {
            self.phase = Phase::Ending;
            reports.send(&Report::Ending);
        }
        if self.phase == Phase::Ending && self.deadlines.kill_at.has_passed() {
            self.phase = Phase::Killing;
        }
        match self.phase {
            Phase::Held => self.look_for_remains(),
            Phase::Ending => self.tell_to_end(),
            Phase::Killing => self.kill(reports),
        }
    }

    /// While the lease is held: the job has ended with the last process that is no daemon.
    fn look_for_remains(&mut self) -> Look {
        if !self.has_command_ended {
            return Look::Again(self.deadlines.end_at);
        }
        let remains = self.processes(true);
        if remains.is_some_and(|remains| remains.is_empty()) {
            self.looks_without_remains += 1;
        } else {
            self.looks_without_remains = 0;
        }
        if self.looks_without_remains >= LOOKS_TO_BELIEVE {
            return Look::Finished;
        }
        let pause = if self.looks_without_remains > 0 {
            LOOK_WHILE_ENDING
        } else {
            LOOK_AT_REMAINS
        };
        Look::Again(self.deadlines.end_at.min(BootInstant::now() + pause))
    }

    /// Tells every process to end that was not told yet. Daemons too: of one that an unfinished
    /// command has started nobody knows whether it works for the command.
    fn tell_to_end(&mut self) -> Look {
        for process in self.processes(false).unwrap_or_default() {
            if self.told_at_loss.insert(process.id) {
                send_signal(process.id, Signal::SIGTERM);
                // A stopped process does not hear.
                send_signal(process.id, Signal::SIGCONT);
            }
        }
        let next = BootInstant::now() + LOOK_WHILE_ENDING;
        Look::Again(self.deadlines.kill_at.min(next))
    }

    /// Kills until nothing is left. A process that is killed cannot start others, and those that it
    /// has started are found by the next look.
    fn kill(&mut self, reports: &Sender) -> Look {
        let _ = killpg(Pid::from_raw(self.command), Signal::SIGKILL);
        let all = self.processes(false).unwrap_or_default();
        let refused: Vec<i32> = all
            .iter()
            .filter(|process| !send_signal(process.id, Signal::SIGKILL))
            .map(|process| process.id.pid)
            .collect();
        if !refused.is_empty() && refused.len() == all.len() {
            reports.send(&Report::Unkillable { pids: refused });
            return Look::Finished;
        }
        Look::Again(BootInstant::now() + LOOK_WHILE_ENDING)
    }

    /// The processes of the job that run; with or without daemons and their descendants. `None` if
    /// `/proc` cannot be read, because no descriptor is left.
    fn processes(&self, without_daemons: bool) -> Option<Vec<Process>> {
        let is_left_out = |process: &Process| {
            without_daemons
                && process.parent == self.own_pid
                && process.id.pid != self.command
                && !self.told_to_end.contains(&process.id)
                && is_daemon(process, self.own_session, &self.streams)
        };
        let snapshot = Snapshot::take().ok()?;
        Some(snapshot.descendants_of(self.own_pid, is_left_out))
    }
}

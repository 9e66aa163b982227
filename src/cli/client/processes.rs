//! The processes of the machine, as `/proc` shows them, and those that descend from one of them.

use std::collections::HashMap;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};
use rustix::process::{WaitOptions, WaitStatus, wait};

/// A process, for as long as it lives: the system gives its number to another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ProcessId {
    pub(super) pid: i32,
    /// Ticks of the system's clock.
    started_at: u64,
}

/// A process at the instant at which it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// False for one that has ended and that its parent has not waited for.
    pub(super) is_running: bool,
}

/// Checks that `/proc` shows this process by its own number.
///
/// # Errors
/// If it is not mounted, or is that of other processes.
pub(super) fn check_proc() -> io::Result<()> {
    let own = std::fs::read_link("/proc/self")?;
    if own.as_os_str() != getpid().to_string().as_str() || read(getpid().as_raw()).is_none() {
        return Err(io::Error::other(
            "/proc shows other processes than this one's",
        ));
    }
    Ok(())
}

/// The process of this number.
pub(super) fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(&String::from_utf8_lossy(&stat))
}

/// Reads a line of `/proc/<pid>/stat`. The program's name stands in brackets and may hold anything.
fn parse(stat: &str) -> Option<Process> {
    let (pid, rest) = stat.split_once(" (")?;
    let fields: Vec<&str> = rest.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
    let threads = number(17)?;
    Some(Process {
        id: ProcessId {
            pid: pid.parse().ok()?,
            started_at: fields.get(19)?.parse().ok()?,
        },
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        // The first thread may have ended before the others.
        is_running: !matches!(*fields.first()?, "Z" | "X") || threads > 1,
    })
}

/// All processes, by their numbers.
#[derive(Debug)]
pub(super) struct Snapshot {
    children: HashMap<i32, Vec<Process>>,
}

impl Snapshot {
    /// # Errors
    /// If `/proc` cannot be read.
    pub(super) fn take() -> io::Result<Self> {
        let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok());
            // One that has ended since is left out.
            if let Some(process) = pid.and_then(read) {
                children.entry(process.parent).or_default().push(process);
            }
        }
        Ok(Self { children })
    }

    pub(super) fn children_of(&self, pid: i32) -> &[Process] {
        self.children.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// The processes that run and descend from this one, without those that `is_left_out` and
    /// their descendants.
    pub(super) fn descendants_of(
        &self,
        pid: i32,
        is_left_out: impl Fn(&Process) -> bool,
    ) -> Vec<Process> {
        let mut found = Vec::new();
        let mut parents = vec![pid];
        while let Some(parent) = parents.pop() {
            for child in self.children_of(parent) {
                if !is_left_out(child) {
                    parents.push(child.id.pid);
                    found.push(*child);
                }
            }
        }
        found.retain(|process| process.is_running);
        found
    }
}

/// Sends a signal, unless the process has ended. Returns false if this user may not.
pub(super) fn send_signal(process: ProcessId, signal: Signal) -> bool {
    let lives = read(process.pid).is_some_and(|it| it.id == process);
    !lives || kill(Pid::from_raw(process.pid), signal) != Err(Errno::EPERM)
}

/// A change of one of this process's children.
#[derive(Clone, Copy, Debug)]
pub(super) enum ChildChange {
    Ended { pid: i32, code: u8 },
    Stopped { pid: i32, signal: i32 },
}

/// Why no child has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoChange {
    /// Children run.
    Yet,
    /// There are no children: nothing descends from this process.
    NoChildren,
}

/// Reaps a child that has ended, or learns of one that was stopped.
///
/// # Errors
/// If nothing has changed.
pub(super) fn next_change() -> Result<ChildChange, NoChange> {
    loop {
        match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get();
                if let Some(signal) = status.stopping_signal() {
                    return Ok(ChildChange::Stopped { pid, signal });
                }
                return Ok(ChildChange::Ended {
                    pid,
                    code: exit_code(status),
                });
            }
            Ok(None) => return Err(NoChange::Yet),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Err(NoChange::NoChildren),
        }
    }
}

/// The exit code as a shell says it: 128 and the signal's number for one that a signal has ended.
fn exit_code(status: WaitStatus) -> u8 {
    status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_program_is_read_over() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 1 18 19 20";
        for name in ["sh", "a b", ") S 9 9 9", "((", "\u{fffd}"] {
            let process = parse(&format!("77 ({name}) {rest}")).unwrap();
            assert_eq!(
                (
                    process.id.pid,
                    process.parent,
                    process.group,
                    process.session
                ),
                (77, 1, 2, 3),
                "{name}"
            );
            assert_eq!(process.id.started_at, 19);
            assert!(process.is_running);
        }
        let dead = parse(&format!("77 (sh) {}", rest.replacen('S', "Z", 1))).unwrap();
        assert!(!dead.is_running);
        let threads_left = rest.replacen('S', "Z", 1).replacen(" 1 18", " 4 18", 1);
        assert!(
            parse(&format!("77 (sh) {threads_left}"))
                .unwrap()
                .is_running
        );
        assert_eq!(parse("77 (sh"), None);
        assert_eq!(parse("77 (sh) S 1"), None);
    }

    #[test]
    fn descendants_are_found_and_a_branch_can_be_left_out() {
        check_proc().unwrap();
        let own = getpid().as_raw();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let grandchild = loop {
            let snapshot = Snapshot::take().unwrap();
            if let [grandchild] = snapshot.children_of(pid) {
                break *grandchild;
            }
        };
        let snapshot = Snapshot::take().unwrap();
        let all = snapshot.descendants_of(own, |_| false);
        assert!(all.contains(&grandchild) && all.iter().any(|it| it.id.pid == pid));
        let without = snapshot.descendants_of(own, |it| it.id.pid == pid);
        assert!(
            !without
                .iter()
                .any(|it| it.id == grandchild.id || it.id.pid == pid)
        );
        assert!(send_signal(grandchild.id, Signal::SIGKILL));
        child.wait().unwrap();
        // It has ended: nothing is sent to the next process of this number.
        assert!(send_signal(grandchild.id, Signal::SIGKILL));
    }
}

//! The machine's processes, of which those of a cluster are picked.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::wait::DEADLINE;

/// The children of a process.
pub(super) fn children_of(parent: Pid) -> Vec<Pid> {
    let table = process_table();
    table
        .into_iter()
        .filter(|process| process.parent == parent)
        .map(|process| process.id)
        .collect()
}

struct Process {
    id: Pid,
    parent: Pid,
    state: char,
}

/// All processes of the machine: from `/proc` if there is one, otherwise from `ps`.
fn process_table() -> Vec<Process> {
    let line_of = |text: &str| {
        let mut words = text.split_whitespace();
        let id = words.next()?.parse().ok()?;
        let state = words.next()?.chars().next()?;
        let parent = words.next()?.parse().ok()?;
        Some(Process {
            id: Pid::from_raw(id),
            parent: Pid::from_raw(parent),
            state,
        })
    };
    if let Ok(entries) = std::fs::read_dir("/proc/")
        .and_then(|entries| File::open("/proc/self/stat").map(|_| entries))
    {
        let stats = entries
            .flatten()
            .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        // `id (name) state parent …`, and the name may contain anything.
        let plain = stats.filter_map(|stat| {
            let id = stat.split(' ').next()?.to_owned();
            Some(format!("{id} {}", stat.rsplit_once(')')?.1))
        });
        return plain.filter_map(|line| line_of(&line)).collect();
    }
    let output = Command::new("ps")
        .args(["-A", "-o", "pid=,state=,ppid="])
        .output()
        .expect("ps can be run");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(line_of)
        .collect()
}

/// Stops a process, and waits until it has stopped: on another processor it runs on for a moment
/// after the signal was sent, and may start a child. Returns at once if it has ended.
pub(super) fn stop(process: Pid) {
    if kill(process, Signal::SIGSTOP).is_err() {
        return;
    }
    let started = Instant::now();
    let runs = |other: &Process| other.id == process && !matches!(other.state, 'T' | 't' | 'Z');
    while process_table().iter().any(runs) {
        assert!(started.elapsed() < DEADLINE, "{process} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until none of them is left, but as a zombie.
pub(super) fn eventually_gone(processes: &[Pid]) {
    let started = Instant::now();
    let lives = |process: &Process| processes.contains(&process.id) && process.state != 'Z';
    while process_table().iter().any(lives) {
        assert!(started.elapsed() < DEADLINE, "{processes:?} do not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

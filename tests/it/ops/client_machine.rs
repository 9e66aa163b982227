//! The commands of the client and their machine: ignored signals, descriptors that run out, the
//! clock.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;

use super::client_world::*;
use super::{DataDir, succeeded};
use crate::support::prelude::*;
use crate::support::process::lockable;

/// True if the process ignores the signal.
fn ignores(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0
}

const STOPPING: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

fn without_prefix(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

#[tokio::test(flavor = "multi_thread")]
async fn run_and_its_command_ignore_what_was_ignored_at_the_start() {
    let world = World::new().await;
    let others = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTSTP];
    let all = STOPPING.into_iter().chain(others);
    for (number, signal) in all.enumerate() {
        let lock = format!("job{number}");
        let script = format!(
            "trap '' {}; exec \"$0\" run {lock} -- sleep 300",
            without_prefix(signal)
        );
        let run = world.script(&script).spawn().unwrap();
        let lease_id = world.lease_id(&lock).await;
        let command = eventually("the command runs", async || {
            job_of(&lease_id).first().copied()
        })
        .await;
        let run_pid = pid(&run);
        for other in STOPPING.into_iter().chain(others) {
            assert_eq!(ignores(run_pid, other), other == signal, "{signal} {other}");
            assert_eq!(ignores(command, other), other == signal, "{signal} {other}");
        }
        send(run_pid, signal);
        let stop = if signal == Signal::SIGTERM {
            Signal::SIGHUP
        } else {
            Signal::SIGTERM
        };
        send(run_pid, stop);
        assert_eq!(end_of(run).await, Some(128 + stop as i32), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_ignores_what_was_ignored_at_the_start() {
    let data = DataDir::new();
    let address = free_address();
    let mut serve = Command::new("sh");
    serve
        .args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\""])
        .arg(lockable().get_program());
    serve.args([
        "serve",
        "--listen",
        &address,
        "--metrics-listen",
        "127.0.0.1:0",
    ]);
    serve
        .arg("--data-dir")
        .arg(data.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let serve = serve.spawn().unwrap();
    wait_until_ready(&address).await;
    for signal in STOPPING {
        let is_ignored = matches!(signal, Signal::SIGHUP | Signal::SIGINT);
        assert_eq!(ignores(pid(&serve), signal), is_ignored, "{signal}");
    }
    send(pid(&serve), Signal::SIGHUP);
    send(pid(&serve), Signal::SIGINT);
    wait_until_ready(&address).await;
    send(pid(&serve), Signal::SIGTERM);
    assert_eq!(end_of(serve).await, Some(0));
}

/// True if the system could not even load the program.
fn is_not_loaded(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stderr).contains("error while loading shared libraries")
}

/// 1 is `false`. The lock is held throughout by whoever asks, so that no verdict is `false`.
#[tokio::test(flavor = "multi_thread")]
async fn exit_code_1_means_false_however_few_descriptors_there_are() {
    let world = World::new().await;
    let mut codes = std::collections::BTreeSet::new();
    for limit in 3..24 {
        let lock = format!("job{limit}");
        for command in ["acquire", "heartbeat", "release"] {
            if command != "acquire" && !world.is_held(&lock).await {
                succeeded(&world.run(&["acquire", &lock]).await);
            }
            let script = format!("ulimit -n {limit}; exec \"$0\" {command} {lock}");
            let output = output(world.script(&script)).await;
            if is_not_loaded(&output) {
                continue;
            }
            let code = output.status.code().unwrap();
            assert_eq!(
                code == 0,
                output.stdout == b"true\n",
                "{limit} {command} {output:?}"
            );
            assert!(
                [0, 69, 71, 101].contains(&code),
                "{limit} {command} {output:?}"
            );
            codes.insert(code);
        }
    }
    // It was tried on both sides of what is needed.
    assert!(codes.contains(&0) && codes.contains(&71), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_starts_nothing_and_keeps_nothing_where_descriptors_are_missing() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mut codes = std::collections::BTreeSet::new();
    for limit in 3..40 {
        let lock = format!("job{limit}");
        let mark = folder.path().join(&lock);
        let script = format!(
            "ulimit -n {limit}; exec \"$0\" run -n {lock} -- touch {}",
            mark.display()
        );
        let output = output(world.script(&script)).await;
        if is_not_loaded(&output) {
            continue;
        }
        let code = output.status.code().unwrap();
        assert_eq!(code == 0, mark.exists(), "{limit} {output:?}");
        assert!([0, 69, 71, 101, 126].contains(&code), "{limit} {output:?}");
        assert!(!world.is_held(&lock).await, "{limit} {output:?}");
        codes.insert(code);
    }
    assert!(codes.contains(&0) && codes.contains(&71), "{codes:?}");
}

/// A clock that stands still while the machine sleeps has no place in the client: a lease goes on.
#[test]
fn the_client_reads_the_clock_that_counts_sleep() {
    fn check(folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                check(&path);
            } else if !path.ends_with("clock.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for other in ["Instant::now", "SystemTime", "tokio::time", "time::sleep"] {
                    let found = text.replace("BootInstant::now", "").contains(other);
                    assert!(!found, "{}: {other}", path.display());
                }
            }
        }
    }
    check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/client"));
}

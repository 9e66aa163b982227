//! `lockable run` and its job: nothing of it outlives the lease, and the lock is not given back
//! before it.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use super::client_world::*;
use crate::support::prelude::*;

/// Every way in which a process leaves its parent, its process group or its session, and two that
/// do not listen. Each ends in a `sleep` of the length that stands in it, so that a test can tell
/// how many there are.
const ESCAPES: &[&str] = &[
    "sleep 701 &",
    "nohup sleep 702 >/dev/null 2>&1 &",
    "timeout 900 sleep 703 &",
    "setsid sleep 704 &",
    "setsid -f sleep 705",
    "setsid -f setsid -f sleep 706",
    "(setsid sh -c 'sleep 707 & sleep 708' &)",
    "(sleep 709 &)",
    "set -m; sleep 710 & set +m",
    "setsid -f sleep 711 </dev/null >/dev/null 2>&1",
    "setsid sh -c 'trap \"\" TERM HUP INT; sleep 712; while :; do sleep 713; done' &",
    "setsid -f sh -c 'trap \"setsid -f sleep 714\" TERM; while :; do sleep 0.1; done'",
];
/// Processes named `sleep` that they have started, once all have: those of the lines above but the
/// last, which has a short one, and 713, which comes when 712 has ended.
const SLEEPS: usize = 12;

/// A command that starts them all and stays.
fn with_escapes(last: &str) -> String {
    format!("{}\n{last}", ESCAPES.join("\n"))
}

/// The job of a lease, once all escapes have been started.
async fn escaped_job(lease_id: &str) -> Vec<i32> {
    eventually("all have been started", async || {
        let job = job_of(lease_id);
        let is_long_sleep = |pid: &&i32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"sleep\x007")
        };
        (job.iter().filter(is_long_sleep).count() >= SLEEPS).then_some(job)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_job_outlives_a_lease_that_is_lost() {
    let world = World::new().await;
    let script = with_escapes("sleep 720");
    let mut run = world.command(&["run", "job", "--lease", "6", "--", "sh", "-c", &script]);
    let run = run.stderr(Stdio::null()).spawn().unwrap();
    let lease_id = world.lease_id("job").await;
    escaped_job(&lease_id).await;
    world.break_lock("job").await;
    assert_eq!(end_of(run).await, Some(76));
    assert_eq!(job_of(&lease_id), [0; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_job_outlives_a_lease_that_cannot_be_renewed() {
    let world = World::new().await;
    let script = with_escapes("sleep 720");
    let mut run = world.command(&["run", "job", "--lease", "10", "--", "sh", "-c", &script]);
    let run = run.stderr(Stdio::null()).spawn().unwrap();
    let lease_id = world.lease_id("job").await;
    escaped_job(&lease_id).await;
    world.app.kill();
    eventually("the job has ended", async || {
        job_of(&lease_id).is_empty().then_some(())
    })
    .await;
    assert!(world.is_held("job").await, "it ended before its lease");
    assert_eq!(end_of(run).await, Some(76));
}

/// The watchdog acts by itself.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_job_outlives_its_lease_if_run_is_killed_or_stopped() {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let world = World::new().await;
        let script = with_escapes("sleep 720");
        let mut run = world.command(&["run", "job", "--lease", "10", "--", "sh", "-c", &script]);
        let run = run.stderr(Stdio::null()).spawn().unwrap();
        let lease_id = world.lease_id("job").await;
        escaped_job(&lease_id).await;
        let run_pid = pid(&run);
        send(run_pid, signal);
        eventually("the job has ended", async || {
            job_of(&lease_id).is_empty().then_some(())
        })
        .await;
        assert!(
            world.is_held("job").await,
            "{signal}: it ended before its lease"
        );
        if signal == Signal::SIGSTOP {
            send(run_pid, Signal::SIGCONT);
            assert_eq!(end_of(run).await, Some(76));
        } else {
            end_of(run).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_job_outlives_its_watchdog() {
    let world = World::new().await;
    let script = with_escapes("sleep 720");
    // A process that `run` has as a child and that is none of the job's: it is left alone.
    let start = format!(
        "sleep 730 & exec \"$0\" run job -- sh -c '{}'",
        script.replace('\'', "'\\''")
    );
    let mut run = world.script(&start);
    let run = run.stderr(Stdio::null()).spawn().unwrap();
    let lease_id = world.lease_id("job").await;
    escaped_job(&lease_id).await;
    let (watchdogs, others): (Vec<i32>, Vec<i32>) =
        children_of(pid(&run)).into_iter().partition(|child| {
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).unwrap();
            name.trim() == "lock-watchdog"
        });
    assert_eq!((watchdogs.len(), others.len()), (1, 1));
    send(watchdogs[0], Signal::SIGKILL);
    assert_eq!(end_of(run).await, Some(71));
    assert_eq!(job_of(&lease_id), [0; 0]);
    assert!(!world.is_held("job").await, "it was given back");
    assert!(works(others[0]));
    send(others[0], Signal::SIGKILL);
}

/// SIGTERM, SIGINT and the like reach everything, and the lock stays until all have ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_reaches_the_whole_job_and_the_lock_waits_for_it() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let lock = signal.as_str();
        let (begun, end) = (
            folder.path().join(lock),
            folder.path().join(format!("{lock}-end")),
        );
        // One finishes its work first, in a session of its own, and has let go of its output.
        let script = format!(
            "timeout 900 sleep 703 & setsid -f sleep 705
            env --default-signal setsid sh -c '
                trap \"echo $$ >> {0}\" {1}; while ! [ -e {2} ]; do sleep 0.05; done
            ' </dev/null >/dev/null 2>&1 &
            exec sleep 720",
            begun.display(),
            lock.trim_start_matches("SIG"),
            end.display()
        );
        let mut run = world.command(&["run", lock, "--", "sh", "-c", &script]);
        let run = run.spawn().unwrap();
        let lease_id = world.lease_id(lock).await;
        // The shell's loop has a short sleep as well, most of the time.
        eventually("all have been started", async || {
            (job_of(&lease_id).len() >= 5).then_some(())
        })
        .await;
        eventually("the trap is set", async || {
            let traps = |pid: &i32| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
                let status = status.unwrap_or_default();
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
                let caught = u64::from_str_radix(caught.unwrap_or("0").trim(), 16).unwrap();
                let name = status.lines().next().unwrap_or_default().ends_with("\tsh");
                name && caught & (1 << (signal as i32 - 1)) != 0
            };
            job_of(&lease_id).iter().any(traps).then_some(())
        })
        .await;
        send(pid(&run), signal);
        let last = numbers(&begun, 1).await[0];
        eventually("the others have ended", async || {
            let job = job_of(&lease_id);
            let is_of_last = |&pid: &i32| {
                pid == last || stat(pid).is_some_and(|fields| fields[1] == last.to_string())
            };
            job.iter().all(is_of_last).then_some(())
        })
        .await;
        assert!(works(last) && world.is_held(lock).await, "{signal}");
        std::fs::write(&end, "").unwrap();
        assert_eq!(end_of(run).await, Some(128 + signal as i32), "{signal}");
        assert!(!works(last) && !world.is_held(lock).await, "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_kept_while_the_command_has_left_something_running() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let end = folder.path().join("end");
    let work = format!("while ! [ -e {} ]; do sleep 0.05; done", end.display());
    let mut runs = Vec::new();
    for (number, left_behind) in [
        "sh -c '{}' &",
        "(sh -c '{}' &)",
        "setsid sh -c '{}' &",
        "setsid -f sh -c '{}'",
        "timeout 900 sh -c '{}' &",
        "nohup sh -c '{}' >/dev/null 2>&1 &",
        "set -m; sh -c '{}' &",
    ]
    .into_iter()
    .enumerate()
    {
        let lock = format!("job{number}");
        let script = format!("{}\nexit 7", left_behind.replace("{}", &work));
        let mut run = world.command(&["run", &lock, "--lease", "2", "--", "sh", "-c", &script]);
        runs.push((
            left_behind,
            lock,
            run.stderr(Stdio::null()).spawn().unwrap(),
        ));
    }
    for (left_behind, lock, run) in &mut runs {
        world.lease_id(lock).await;
        // Past its first end: it is renewed meanwhile.
        let renewed = format!(
            "SELECT expires_at > acquired_at + interval '3 s' FROM locks WHERE name = '{lock}'"
        );
        eventually("it was renewed", async || {
            world.app.db.value::<bool>(&renewed).await.then_some(())
        })
        .await;
        assert!(run.try_wait().unwrap().is_none(), "{left_behind}");
    }
    std::fs::write(&end, "").unwrap();
    for (left_behind, lock, run) in runs {
        assert_eq!(end_of(run).await, Some(7), "{left_behind}");
        assert!(!world.is_held(&lock).await, "{left_behind}");
    }
}

/// Shells start their background jobs with SIGINT ignored; a second ^C must not be in vain.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_what_the_command_has_left_running() {
    let world = World::new().await;
    for (lock, signal) in [("int", Signal::SIGINT), ("quit", Signal::SIGQUIT)] {
        let mut run = world.command(&["run", lock, "--", "sh", "-c", "sleep 300 & exit 3"]);
        let run = run.stderr(Stdio::piped()).spawn().unwrap();
        let lease_id = world.lease_id(lock).await;
        let (run, said) = tokio::task::spawn_blocking(move || {
            let mut run = run;
            let mut said = String::new();
            let stderr = run.stderr.take().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut said).unwrap();
            (run, said)
        })
        .await
        .unwrap();
        assert!(said.contains("the command has ended"), "{said}");
        assert_eq!(job_of(&lease_id).len(), 1);
        send(pid(&run), signal);
        assert_eq!(end_of(run).await, Some(3));
        assert!(!world.is_held(lock).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_not_waited_for() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let started = folder.path().join("started");
    // It has a child of its own, which belongs to it.
    let script = format!(
        "setsid -f sh -c 'sleep 300 & echo $! > {0}.tmp; mv {0}.tmp {0}; wait' \
            </dev/null >/dev/null 2>&1
        while ! [ -e {0} ]; do sleep 0.05; done",
        started.display()
    );
    let mut run = world.command(&["run", "job", "--", "sh", "-c", &script]);
    let output = output_of(&mut run).await;
    assert_eq!(output, Some(0));
    assert!(!world.is_held("job").await);
    let child = numbers(&started, 1).await[0];
    assert!(works(child));
    let daemon = stat(child).unwrap()[1].parse().unwrap();
    send(daemon, Signal::SIGKILL);
    send(child, Signal::SIGKILL);
}

async fn output_of(command: &mut Command) -> Option<i32> {
    end_of(command.spawn().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_run_had_before_are_not_of_its_job() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let before = folder.path().join("before");
    // As `exec > >(tee log); exec lockable run …` in a shell: it waits for the output's end.
    let script = format!(
        "sleep 300 & echo $! > {}; exec \"$0\" run job -- sh -c 'sleep 0 & exit 3'",
        before.display()
    );
    assert_eq!(output_of(&mut world.script(&script)).await, Some(3));
    let before = numbers(&before, 1).await[0];
    assert!(works(before));
    send(before, Signal::SIGKILL);
}

/// Orphans come to the watchdog (of the job) and to `run` (others, if it is process 1 or was
/// started by `exec`): neither leaves them as zombies.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_reaped() {
    let world = World::new().await;
    let script = "sleep 0.1 & sh -c 'sleep 0.1 & sleep 0.2' &
        exec \"$0\" run job -- sh -c '
            (sleep 0.1 &); (setsid sh -c \"sleep 0.2 & sleep 0.1\" &); exec sleep 300
        '";
    let run = world.script(script).spawn().unwrap();
    let lease_id = world.lease_id("job").await;
    let run_pid = pid(&run);
    eventually(
        "nothing but the command and the watchdog is left",
        async || {
            let watchdog = children_of(run_pid);
            let [watchdog] = watchdog[..] else {
                return None;
            };
            let command = children_of(watchdog);
            (command.len() == 1 && job_of(&lease_id) == command).then_some(())
        },
    )
    .await;
    send(run_pid, Signal::SIGTERM);
    assert_eq!(end_of(run).await, Some(128 + 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_this_program_and_the_command_are_started() {
    let world = World::new().await;
    let mut run = world.command(&["run", "job", "--", "/usr/bin/env", "sleep", "300"]);
    // Nothing is found by name.
    let run = run.env("PATH", "/nowhere:/bin:/usr/bin").spawn().unwrap();
    world.lease_id("job").await;
    let run_pid = pid(&run);
    let program = |pid: i32| std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    eventually("the command runs", async || {
        let watchdog = children_of(run_pid);
        let [watchdog] = watchdog[..] else {
            return None;
        };
        let command = children_of(watchdog);
        let [command] = command[..] else { return None };
        (program(watchdog) == program(run_pid) && program(command)?.ends_with("sleep"))
            .then_some(())
    })
    .await;
    send(run_pid, Signal::SIGTERM);
    assert_eq!(end_of(run).await, Some(128 + 15));
}

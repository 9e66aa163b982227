//! `lockable acquire`, `heartbeat`, `release` and `run`, against a node.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client_world::{World, numbers, works};
use super::{failed, succeeded};
use crate::support::prelude::*;
use crate::support::process::lockable;

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_are_exit_codes() {
    let world = World::new().await;
    assert_eq!(succeeded(&world.run(&["acquire", "a/b c"]).await), "true\n");
    let again = world.run(&["acquire", "a/b c"]).await;
    assert_eq!(
        (again.status.code(), again.stdout.as_slice()),
        (Some(1), b"false\n".as_slice())
    );
    let json: serde_json::Value = serde_json::from_str(&succeeded(
        &world.run(&["heartbeat", "a/b c", "--json"]).await,
    ))
    .unwrap();
    assert!(
        json["response"] == true && json["fencing_token"].as_u64() >= Some(1),
        "{json}"
    );
    succeeded(&world.run(&["release", "a/b c"]).await);
    failed(&world.run(&["release", "a/b c"]).await, 1);
    // Refused, called wrongly, and nobody there.
    let mut unknown = world.command(&["acquire", "x"]);
    unknown.env(
        "LOCKABLE_AUTH_TOKEN",
        "b9164069-49c1-45ec-a05c-025d8d84091f",
    );
    let said = failed(&unknown.output().unwrap(), 77);
    assert!(said.contains("401") && !said.contains("b9164069"), "{said}");
    failed(&world.run(&["acquire", ".."]).await, 2);
    failed(&world.run(&["acquire", "x", "--lease", "30x"]).await, 2);
    // A release has no length: it is not offered.
    assert!(
        failed(&world.run(&["release", "x", "--lease", "30s"]).await, 2)
            .contains("unexpected argument")
    );
    assert!(!succeeded(&world.run(&["release", "--help"]).await).contains("--lease <"));
    let mut nobody = world.command(&["acquire", "x"]);
    failed(
        &nobody
            .env("LOCKABLE_URL", "http://127.0.0.1:1")
            .output()
            .unwrap(),
        69,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn run_holds_the_lock_while_the_command_runs() {
    let world = World::new().await;
    let script = "echo $LOCKABLE_FENCING_TOKEN $LOCKABLE_LEASE_ID; exec sleep 60";
    let mut first = world.command(&["run", "job", "--lease", "2s", "--", "sh", "-c", script]);
    let mut first = first.stdout(Stdio::piped()).spawn().unwrap();
    let held = eventually("it is held", async || {
        let held: Option<(i64, String)> =
            sqlx::query_as("SELECT fencing_token, lease_id::text FROM locks WHERE name = 'job'")
                .fetch_optional(&world.app.db.pool)
                .await
                .unwrap();
        held
    })
    .await;
    let taken = world.run(&["run", "-n", "job", "--", "true"]).await;
    assert!(failed(&taken, 75).contains("somebody else"));
    // Longer than its lease: it is renewed.
    eventually("it was renewed past its first end", async || {
        let renewed =
            "SELECT expires_at > acquired_at + interval '3 s' FROM locks WHERE name = 'job'";
        world.app.db.value::<bool>(renewed).await.then_some(())
    })
    .await;
    // Waits, and gets it when the first gives it back.
    let waiting = world
        .command(&["run", "job", "--wait", "25s", "--", "sh", "-c", "exit 7"])
        .spawn()
        .unwrap();
    kill(Pid::from_raw(first.id().cast_signed()), Signal::SIGTERM).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut first.stdout.take().unwrap(), &mut said).unwrap();
    assert_eq!(said.trim(), format!("{} {}", held.0, held.1));
    assert_eq!(
        first.wait().unwrap().code(),
        Some(128 + 15),
        "the command's end by the signal that was passed on"
    );
    let waited = tokio::task::spawn_blocking(move || waiting.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(waited.status.code(), Some(7));
    succeeded(&world.run(&["acquire", "job"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_ends_the_command_when_the_lease_is_lost() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("ended");
    // It takes its time to end, but not for ever.
    let script = format!(
        "trap 'echo > {}; exit 0' TERM; while true; do sleep 0.1; done",
        mark.display()
    );
    let child = world
        .command(&["run", "job", "--lease", "2s", "--", "sh", "-c", &script])
        .spawn()
        .unwrap();
    eventually("somebody breaks it", async || {
        let broken = sqlx::query(
            "UPDATE locks SET expires_at = clock_timestamp(), end_reason = 2 WHERE name = 'job'",
        )
        .execute(&world.app.db.pool)
        .await
        .unwrap();
        (broken.rows_affected() == 1).then_some(())
    })
    .await;
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(76));
    assert!(mark.exists(), "it was told to end before it was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn run_kills_a_command_that_does_not_end_before_the_lease_does() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready");
    let script = format!(
        "trap '' TERM; echo $$ > {}; while true; do sleep 0.1; done",
        ready.display()
    );
    let child = world
        .command(&["run", "job", "--lease", "3s", "--", "sh", "-c", &script])
        .spawn()
        .unwrap();
    let pid = eventually("the command runs", async || {
        std::fs::read_to_string(&ready)
            .ok()?
            .trim()
            .parse::<i32>()
            .ok()
    })
    .await;
    // The service is gone: nothing can be renewed.
    world.app.kill();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(76));
    assert!(
        kill(Pid::from_raw(pid), None).is_err(),
        "the command is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn run_ends_what_the_command_has_started_when_the_lease_is_lost() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    let started = folder.path().join("started");
    // The shell ends at the first word; of what it has started, one process listens too, and one
    // does not.
    let script = format!(
        "sh -c 'echo $$ >> {0}; exec sleep 300' &
        sh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 0.1; done' & wait",
        started.display()
    );
    let child = world
        .command(&["run", "job", "--lease", "6s", "--", "sh", "-c", &script])
        .spawn()
        .unwrap();
    let started = numbers(&started, 2).await;
    sqlx::query(
        "UPDATE locks SET expires_at = clock_timestamp(), end_reason = 2 WHERE name = 'job'",
    )
    .execute(&world.app.db.pool)
    .await
    .unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(76));
    eventually("all are gone", async || {
        started.iter().all(|&pid| !works(pid)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn run_passes_signals_on_to_what_the_command_has_started() {
    let world = World::new().await;
    let folder = tempfile::tempdir().unwrap();
    for (number, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
        let started = folder.path().join(number.to_string());
        let script = format!(
            "sh -c 'echo $$ >> {}; exec sleep 300' & wait",
            started.display()
        );
        let name = format!("job{number}");
        let mut child = world
            .command(&["run", &name, "--", "sh", "-c", &script])
            .spawn()
            .unwrap();
        let started = numbers(&started, 1).await;
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        tokio::task::spawn_blocking(move || child.wait().unwrap())
            .await
            .unwrap();
        // SIGKILL cannot be caught: there the watchdog does it.
        eventually("it is gone", async || (!works(started[0])).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn run_hands_the_terminal_over_to_a_command_that_reads() {
    let world = World::new().await;
    let line = format!(
        "'{}' run job -- sh -c 'read word; echo read:$word'",
        lockable().get_program().display()
    );
    let mut in_terminal = Command::new("script");
    in_terminal
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    for (name, value) in world.command(&[]).get_envs() {
        match value {
            Some(value) => in_terminal.env(name, value),
            None => in_terminal.env_remove(name),
        };
    }
    let mut child = in_terminal.spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"hello\n").unwrap();
    eventually("it ends, and is not left stopped", async || {
        child.try_wait().unwrap()
    })
    .await;
    let output = child.wait_with_output().unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("read:hello"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn run_says_what_cannot_be_run() {
    let world = World::new().await;
    failed(
        &world
            .run(&["run", "job", "--", "no-such-command-here"])
            .await,
        127,
    );
    failed(&world.run(&["run", "job", "--", "/etc/passwd"]).await, 126);
    failed(&world.run(&["run", "job"]).await, 2);
    // It was given back each time.
    succeeded(&world.run(&["acquire", "job"]).await);
}

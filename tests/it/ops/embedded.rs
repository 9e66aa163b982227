//! The PostgreSQL of the service's own.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};

use super::{DataDir, failed, is_running, reachable_binary, succeeded};
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn it_needs_no_settings_and_is_closed_to_others() {
    let data = DataDir::new();
    let node = data.serve();
    assert_eq!(
        node.anonymous().get("/readyz").await.json()["status"],
        "ready"
    );
    // Neither the service nor PostgreSQL is root, and nobody else may look in.
    let owner = std::fs::metadata(data.path()).unwrap().uid();
    assert_ne!(owner, 0);
    assert_eq!(
        std::fs::metadata(data.path()).unwrap().permissions().mode() & 0o777,
        0o700
    );
    assert_eq!(
        std::fs::metadata(data.path().join("run"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    assert_eq!(uid_of(node.pid()), owner);
    assert_eq!(uid_of(data.postmaster().unwrap()), owner);
    let mut session = data.connect().await;
    let (listens, superuser, checksums, fsync): (String, bool, String, String) = sqlx::query_as(
        "SELECT current_setting('listen_addresses'), rolsuper, current_setting('data_checksums'),
                current_setting('fsync')
           FROM pg_roles WHERE rolname = current_user",
    )
    .fetch_one(&mut session)
    .await
    .unwrap();
    assert_eq!(
        (
            listens.as_str(),
            superuser,
            checksums.as_str(),
            fsync.as_str()
        ),
        ("", false, "on", "on")
    );
    let memory: (i64, i64) = sqlx::query_as(
        "SELECT pg_size_bytes(current_setting('shared_buffers')),
                pg_size_bytes(current_setting('max_wal_size'))",
    )
    .fetch_one(&mut session)
    .await
    .unwrap();
    assert!(
        ((128 << 20)..=(4 << 30)).contains(&memory.0) && memory.1 == 4 << 30,
        "{memory:?}"
    );
    let line = node.wait_for_line("where the data is", |line| {
        line.contains("the data is in").then(|| line.to_owned())
    });
    assert!(
        line.contains(data.path().to_str().unwrap()) && line.contains("DATABASE_URL"),
        "{line}"
    );
}

/// The effective user of a process.
fn uid_of(pid: Pid) -> u32 {
    let status = Command::new("ps")
        .args(["-o", "uid=", "-p", &pid.to_string()])
        .output();
    if let Ok(output) = status {
        return String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .unwrap();
    }
    std::fs::metadata(format!("/proc/{pid}")).unwrap().uid()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_than_root_can_run_it_too() {
    if !Uid::effective().is_root() {
        // Then every other test here is one of that.
        return;
    }
    let user = User::from_name("postgres").unwrap().unwrap();
    let binary_dir = tempfile::tempdir_in("/tmp").unwrap();
    let binary = reachable_binary(binary_dir.path());
    let home = tempfile::tempdir_in("/tmp").unwrap();
    std::os::unix::fs::chown(
        home.path(),
        Some(user.uid.as_raw()),
        Some(user.gid.as_raw()),
    )
    .unwrap();
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new(&binary);
        command
            .args(arguments)
            .env_clear()
            .env("HOME", home.path())
            .env("PATH", std::env::var_os("PATH").unwrap());
        command
            .current_dir("/")
            .uid(user.uid.as_raw())
            .gid(user.gid.as_raw());
        command
    };
    // Without any setting: in the user's own folder.
    let output = as_user(&["admin", "account", "create", "--email", "ada@example.com"])
        .output()
        .unwrap();
    succeeded(&output);
    let cluster = home
        .path()
        .join(".local/share/lockable/postgres/PG_VERSION");
    assert_eq!(std::fs::metadata(cluster).unwrap().uid(), user.uid.as_raw());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_on_one_data_directory_says_who_holds_it() {
    let data = DataDir::new();
    let node = data.serve();
    let second = data.run(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
    ]);
    let said = failed(&second, 1);
    assert!(
        said.contains(&format!("process {}", node.pid())) && said.contains("--data-dir"),
        "{said}"
    );
    assert_eq!(node.anonymous().get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_stops_postgresql_and_a_start_finds_everything() {
    let data = DataDir::new();
    let token = data.account("business");
    let node = data.serve();
    let postmaster = data.postmaster().unwrap();
    assert!(
        node.token(&token)
            .acquire("deploy?lease_ms=3600000")
            .await
            .verdict()
    );
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
    assert!(
        !is_running(postmaster),
        "PostgreSQL is gone before the service is"
    );
    let node = data.serve();
    assert!(!node.token(&token).acquire("deploy").await.verdict());
    assert!(node.token(&token).heartbeat("deploy").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_service_takes_postgresql_with_it_and_loses_nothing() {
    let data = DataDir::new();
    let token = data.account("business");
    let node = data.serve();
    assert!(
        node.token(&token)
            .acquire("deploy?lease_ms=3600000")
            .await
            .verdict()
    );
    let postmaster = data.postmaster().unwrap();
    node.signal(Signal::SIGKILL);
    node.wait();
    eventually("PostgreSQL ends by itself", async || {
        (!is_running(postmaster)).then_some(())
    })
    .await;
    let node = data.serve();
    assert!(node.token(&token).heartbeat("deploy").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_right_after_a_kill_takes_the_data_over() {
    let data = DataDir::new();
    let token = data.account("business");
    for round in 0..3 {
        let node = data.serve();
        let acquired = node
            .token(&token)
            .acquire("deploy?lease_ms=3600000")
            .await
            .verdict();
        assert_eq!(acquired, round == 0);
        node.signal(Signal::SIGKILL);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_lost_its_service_and_its_watchdog_is_taken_over() {
    let data = DataDir::new();
    let token = data.account("business");
    let node = data.serve();
    let orphan = data.postmaster().unwrap();
    assert!(
        node.token(&token)
            .acquire("deploy?lease_ms=3600000")
            .await
            .verdict()
    );
    let watchdog = watchdog_of(orphan);
    kill(watchdog, Signal::SIGKILL).unwrap();
    node.signal(Signal::SIGKILL);
    node.wait();
    assert!(is_running(orphan), "nothing has told it to stop");
    let node = data.serve();
    assert_ne!(data.postmaster().unwrap(), orphan);
    assert!(node.token(&token).heartbeat("deploy").await.verdict());
}

/// Found among all processes, by `/proc` where there is one (a small Debian has no `ps`).
pub(super) fn watchdog_of(postmaster: Pid) -> Pid {
    let wanted = format!("lockable-watchdog {postmaster}");
    let mut processes: Vec<(i32, String)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect();
    if processes.is_empty() {
        let output = Command::new("ps")
            .args(["-axo", "pid=,args="])
            .output()
            .unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        processes.extend(lines.lines().filter_map(|line| {
            let (pid, line) = line.trim().split_once(' ')?;
            Some((pid.parse().ok()?, line.to_owned()))
        }));
    }
    let found = processes
        .iter()
        .find(|(_, line)| line.trim_end().ends_with(&wanted))
        .expect("a watchdog stands beside it");
    Pid::from_raw(found.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postgresql_is_started_again() {
    let data = DataDir::new();
    let token = data.account("business");
    let node = data.serve();
    let client = node.token(&token);
    assert!(client.acquire("deploy?lease_ms=3600000").await.verdict());
    let first = data.postmaster().unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    eventually("the lock can be renewed again", async || {
        let answer = client.heartbeat("deploy").await;
        // Never a guess meanwhile.
        assert!(answer.status == 503 || answer.verdict(), "{answer:?}");
        // Sessions of the killed one may answer for a moment longer.
        let again = data
            .postmaster()
            .is_some_and(|postmaster| postmaster != first);
        (answer.status == 200 && again).then_some(())
    })
    .await;
    node.signal(Signal::SIGTERM);
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_other_things_is_left_alone() {
    let data = DataDir::new();
    std::fs::write(data.path().join("letter.txt"), "dear all").unwrap();
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = failed(&data.run(&["admin", "account", "list"]), 1);
    assert!(said.contains("other things"), "{said}");
    let meta = std::fs::metadata(data.path()).unwrap();
    assert_eq!(
        (meta.permissions().mode() & 0o777, meta.uid()),
        (0o755, Uid::effective().as_raw())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_file_with_somebody_elses_number_does_not_keep_it_from_starting() {
    let data = DataDir::new();
    data.account("hobbyist");
    // The test itself is that somebody; its process does not belong to PostgreSQL.
    let file = data.path().join("postgres/postmaster.pid");
    std::fs::write(
        &file,
        format!(
            "{}\n{}\n",
            std::process::id(),
            data.path().join("postgres").display()
        ),
    )
    .unwrap();
    let owner = std::fs::metadata(data.path()).unwrap();
    std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    let node = data.serve();
    assert_eq!(node.anonymous().get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_version_is_refused_with_the_way_to_upgrade() {
    let data = DataDir::new();
    data.account("hobbyist");
    std::fs::write(data.path().join("postgres/PG_VERSION"), "13\n").unwrap();
    let said = failed(
        &data.run(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ]),
        1,
    );
    for needed in ["PostgreSQL 13", "pg_upgrade", "initdb", "PG_BIN"] {
        assert!(said.contains(needed), "{said}");
    }
    // There is no way down.
    std::fs::write(data.path().join("postgres/PG_VERSION"), "99\n").unwrap();
    let said = failed(
        &data.run(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ]),
        1,
    );
    assert!(
        said.contains("PostgreSQL 99") && !said.contains("pg_upgrade"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_while_it_runs_and_while_it_does_not() {
    let data = DataDir::new();
    let admin = |arguments: &[&str]| data.run(&[&["admin"], arguments].concat());
    succeeded(&admin(&["account", "create", "--email", "ada@example.com"]));
    assert!(
        data.postmaster().is_none(),
        "it ran for the length of the command"
    );
    let node = data.serve();
    let postmaster = data.postmaster();
    succeeded(&admin(&[
        "account",
        "set-plan",
        "Ada@Example.com",
        "business",
    ]));
    let shown = succeeded(&admin(&["account", "show", "ada@example.com", "--json"]));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["plan"], "business");
    assert_eq!(data.postmaster(), postmaster, "it used the one that runs");
    for (flag, wrong) in [
        ("--tokens", "0"),
        ("--requests-per-second", "0"),
        ("--lease-min-ms", "1"),
        ("--name", ""),
    ] {
        let said = failed(&admin(&["plan", "set", "business", flag, wrong]), 1);
        assert!(
            said.contains(&format!("{flag}: give")) && !said.contains('_'),
            "{said}"
        );
    }
    drop(node);
    succeeded(&admin(&["plan", "set", "business", "--tokens", "7"]));
    assert_eq!(
        failed(&admin(&["account", "show", "eve@example.com"]), 1)
            .lines()
            .count(),
        1
    );
    failed(&admin(&["account", "fly"]), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_at_once_take_turns() {
    let data = DataDir::new();
    let children: Vec<_> = (0..4)
        .map(|number| {
            let email = format!("user{number}@example.com");
            data.command(&["admin", "account", "create", "--email", &email])
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let all = succeeded(&data.run(&["admin", "account", "list", "--json"]));
    assert_eq!(
        serde_json::from_str::<Vec<serde_json::Value>>(&all)
            .unwrap()
            .len(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_path_gets_its_socket_elsewhere() {
    let data = DataDir::new();
    let long = data.path().join("a".repeat(120));
    let run = |arguments: &[&str]| {
        let output = super::lockable()
            .args(arguments)
            .arg("--data-dir")
            .arg(&long)
            .output()
            .unwrap();
        succeeded(&output)
    };
    // The folder above must let the unprivileged user through.
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    run(&["admin", "account", "create", "--email", "ada@example.com"]);
    assert!(run(&["admin", "account", "list"]).contains("ada@example.com"));
    assert!(!long.join("run").exists());
}

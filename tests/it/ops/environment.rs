//! The surroundings of the embedded PostgreSQL: links and odd paths, the caller's variables,
//! descriptors and umask, a volume, a container.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use super::embedded::watchdog_of;
use super::{DataDir, failed, is_running, succeeded};
use crate::support::prelude::*;
use crate::support::process::{lockable, lockable_after};

/// Moves the cluster to another folder of the same owner and leaves a link.
fn move_cluster(data: &DataDir, to: &Path) {
    let cluster = data.path().join("postgres");
    std::fs::rename(&cluster, to).unwrap();
    symlink(to, &cluster).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_postgresql_behind_a_link_is_taken_over() {
    let data = DataDir::new();
    let token = data.account("business");
    move_cluster(&data, &data.path().join("elsewhere"));
    let node = data.serve();
    let acquired = node.token(&token).acquire("deploy?lease_ms=3600000").await;
    assert!(acquired.verdict());
    let orphan = data.postmaster().unwrap();
    kill(watchdog_of(orphan), Signal::SIGKILL).unwrap();
    node.signal(Signal::SIGKILL);
    node.wait();
    assert!(is_running(orphan), "nothing has told it to stop");
    let node = data.serve();
    eventually("only one PostgreSQL is on the cluster", async || {
        (!is_running(orphan)).then_some(())
    })
    .await;
    assert!(node.log().contains("taking over"), "{}", node.log());
    assert!(node.token(&token).heartbeat("deploy").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_data_directories_cannot_share_a_cluster() {
    let (data, other) = (DataDir::new(), DataDir::new());
    data.account("hobbyist");
    let node = data.serve();
    let postmaster = data.postmaster();
    symlink(data.path().join("postgres"), other.path().join("postgres")).unwrap();
    // As a copy of the folder would be, so that the cluster can be reached.
    let owner = std::fs::metadata(data.path()).unwrap();
    std::os::unix::fs::chown(other.path(), Some(owner.uid()), Some(owner.gid())).unwrap();
    let said = failed(&other.run(&["admin", "account", "list"]), 1);
    assert!(said.contains("another data directory"), "{said}");
    assert_eq!(data.postmaster(), postmaster);
    assert_eq!(node.anonymous().get("/readyz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_nowhere_does_not_become_a_new_cluster() {
    let data = DataDir::new();
    data.account("hobbyist");
    // A disk that is not mounted.
    let away = data.path().join("away");
    move_cluster(&data, &away);
    std::fs::rename(&away, data.path().join("unmounted")).unwrap();
    let said = failed(&data.run(&["admin", "account", "list"]), 1);
    assert!(said.contains("no PostgreSQL cluster"), "{said}");
    std::fs::rename(data.path().join("unmounted"), &away).unwrap();
    assert!(succeeded(&data.run(&["admin", "account", "list"])).contains("ada@example.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_of_any_characters_works_and_line_breaks_are_refused() {
    let data = DataDir::new();
    // The folder above must let the unprivileged user through.
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = |path: &Path, arguments: &[&str]| {
        let mut command = lockable();
        command.args(arguments).arg("--data-dir").arg(path);
        command.output().unwrap()
    };
    let odd = data.path().join(r#"it's a "back\slash", ünï $HOME; #x"#);
    succeeded(&run(
        &odd,
        &["admin", "account", "create", "--email", "ada@example.com"],
    ));
    let file = data.path().join("b.dump");
    succeeded(&run(&odd, &["backup", file.to_str().unwrap()]));
    // The operator's own settings are read from there.
    std::fs::write(odd.join("postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let said = failed(&run(&odd, &["admin", "account", "list"]), 1);
    assert!(said.contains("no_such_setting"), "{said}");

    let broken = data.path().join("line\nfsync = off");
    let said = failed(&run(&broken, &["admin", "account", "list"]), 1);
    assert!(
        said.contains("line break") && said.contains("--data-dir"),
        "{said}"
    );
    assert!(!broken.exists());
}

/// Set for the tests below, with everything that a caller could have in its environment.
fn with_variables(command: &mut Command) {
    command
        .env(
            "PGOPTIONS",
            "-c search_path=nowhere -c default_transaction_read_only=on",
        )
        .env("PGHOST", "/nowhere")
        .env("PGPORT", "1")
        .env("PGUSER", "nobody")
        .env("PGPASSWORD", "hunter2")
        .env("PGDATABASE", "nowhere")
        .env("PGDATA", "/nowhere")
        .env("PGAPPNAME", "other")
        .env("NOTIFY_SOCKET", "/nowhere")
        .env("LOCKABLE_SMTP_URL", "smtp://mailer:hunter2@127.0.0.1:1")
        .env("FOR_ARCHIVING", "stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_variables_reach_neither_sessions_nor_programs() {
    let data = DataDir::new();
    let mut command = data.command(&["admin", "account", "create", "--email", "ada@example.com"]);
    with_variables(&mut command);
    succeeded(&command.output().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("b.dump");
    let mut command = data.command(&["backup", file.to_str().unwrap()]);
    with_variables(&mut command);
    succeeded(&command.output().unwrap());
    let node = Process::start(|command| {
        with_variables(command);
        command.arg("--data-dir").arg(data.path());
    });
    assert_eq!(node.anonymous().get("/readyz").await.status, 200);
    let postmaster = data.postmaster().unwrap();
    for pid in [postmaster, watchdog_of(postmaster)] {
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
            // Only Linux shows it.
            return;
        };
        let environment = String::from_utf8_lossy(&environment).replace('\0', "\n");
        let ours = |line: &str| {
            line.starts_with("LOCKABLE_") || line.starts_with("NOTIFY") || line.contains("hunter2")
        };
        assert!(!environment.lines().any(ours), "{environment}");
        assert!(environment.contains("FOR_ARCHIVING=stays"), "{environment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_get_neither_the_callers_descriptors_nor_the_services_limit() {
    let data = DataDir::new();
    let folder = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(folder.path().join("callers.lock")).unwrap();
    // As `exec 9>callers.lock` in a shell: children inherit it.
    let inherited = nix::unistd::dup(&lock).unwrap();
    let node = data.serve();
    drop(inherited);
    let postmaster = data.postmaster().unwrap();
    for pid in [node.pid(), postmaster, watchdog_of(postmaster)] {
        let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            // Only Linux shows it.
            return;
        };
        let open: Vec<_> = open
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .collect();
        assert!(
            !open.iter().any(|file| file.ends_with("callers.lock")),
            "{open:?}"
        );
    }
    let soft_limit = |pid: Pid| {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<_> = line.unwrap().split_whitespace().collect();
        words[3].parse::<u64>().unwrap()
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert_eq!(soft_limit(node.pid()), hard);
    assert_eq!(soft_limit(postmaster), soft);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_its_own_is_taken_as_new() {
    let data = DataDir::new();
    // As mkfs leaves it: everything belongs to root, and only root can look in.
    let lost = data.path().join("lost+found");
    std::fs::create_dir(&lost).unwrap();
    std::fs::set_permissions(&lost, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    data.account("hobbyist");
    let owner = std::fs::metadata(data.path().join("postgres"))
        .unwrap()
        .uid();
    assert_eq!(std::fs::metadata(data.path()).unwrap().uid(), owner);
    assert_eq!(
        std::fs::metadata(&lost).unwrap().uid(),
        Uid::effective().as_raw()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_above_can_be_passed_whatever_the_umask_is() {
    let data = DataDir::new();
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = data.path().join("srv/lockable/data");
    let mut command = lockable_after("umask 077");
    command
        .args(["admin", "account", "list", "--data-dir"])
        .arg(&folder);
    succeeded(&command.output().unwrap());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    if Uid::effective().is_root() {
        assert_eq!(mode(&data.path().join("srv/lockable")), 0o755);
    }
}

/// The children of a process, with their states, such as `Z` for one that nobody has waited for.
fn children_of(parent: Pid) -> Vec<(Pid, char)> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may have anything in it.
            let mut words = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, of) = (words.next()?.chars().next()?, words.next()?.parse().ok()?);
            (Pid::from_raw(of) == parent).then_some((Pid::from_raw(pid), state))
        })
        .collect()
}

/// `unshare` and the processes that it started. Killed when dropped.
struct Container(Child);

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_the_first_process_of_a_container_it_reaps_orphans_and_takes_signals() {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let can = Command::new("unshare").args(unshare).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        // Not Linux, not root, or a sandbox that forbids it.
        return;
    }
    let data = DataDir::new();
    let mut command = Command::new("unshare");
    command.args(unshare).arg(lockable().get_program());
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
    ]);
    command
        .arg("--data-dir")
        .arg(data.path())
        .env_remove("DATABASE_URL");
    let mut container = Container(command.stderr(Stdio::piped()).spawn().unwrap());
    let outside = Pid::from_raw(i32::try_from(container.0.id()).unwrap());
    let mut log = BufReader::new(container.0.stderr.take().unwrap()).lines();
    let started = log.any(|line| line.unwrap().contains("listening"));
    assert!(started, "it does not start");
    std::thread::spawn(move || log.for_each(drop));
    let [(first, _)] = children_of(outside)[..] else {
        panic!("one process was started: {:?}", children_of(outside));
    };
    // Somebody else's process in the container, whose parent ends before it. The output ends with
    // it.
    let orphan = Command::new("nsenter")
        .args(["--target", &first.to_string(), "--pid", "--mount"])
        .args(["/bin/sh", "-c", "(sleep 0.2; echo ended) &"])
        .output()
        .unwrap();
    assert_eq!(succeeded(&orphan), "ended\n");
    eventually("no process is left that nobody waits for", async || {
        let dead = children_of(first).iter().any(|(_, state)| *state == 'Z');
        (!dead).then_some(())
    })
    .await;
    kill(first, Signal::SIGTERM).unwrap();
    let status = eventually("it stops", async || container.0.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0), "a stop in order");
}

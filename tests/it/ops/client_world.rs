//! A node, and the commands of the client against it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;

use crate::support::client::Client;
use crate::support::prelude::*;
use crate::support::process::lockable;

/// A node, and a token of a business account on it.
pub(super) struct World {
    pub(super) app: TestApp,
    pub(super) token: String,
}

impl World {
    pub(super) async fn new() -> Self {
        let app = TestApp::start().await;
        let account = app.account("business").await;
        let token = account.token().await;
        let token = token.expose().to_owned();
        Self { app, token }
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = lockable();
        command.args(arguments);
        self.with_service(command)
    }

    /// A shell script that finds the binary as `$0`.
    pub(super) fn script(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args([OsStr::new("-c"), OsStr::new(script)]);
        command.arg(lockable().get_program()).stdin(Stdio::null());
        self.with_service(command)
    }

    fn with_service(&self, mut command: Command) -> Command {
        command
            .env("LOCKABLE_URL", self.app.url())
            .env("LOCKABLE_AUTH_TOKEN", &self.token);
        command
    }

    pub(super) async fn run(&self, arguments: &[&str]) -> Output {
        output(self.command(arguments)).await
    }

    /// The lease of a lock, once it is held.
    pub(super) async fn lease_id(&self, lock: &str) -> String {
        let query = "SELECT lease_id::text FROM locks WHERE name = $1 AND end_reason = 0";
        eventually("the lock is held", async || {
            sqlx::query_scalar(query)
                .bind(lock)
                .fetch_optional(&self.app.db.pool)
                .await
                .unwrap()
        })
        .await
    }

    /// True if the lease has not ended, by the database's clock.
    pub(super) async fn is_held(&self, lock: &str) -> bool {
        let query = "SELECT count(*) = 1 FROM locks
            WHERE name = $1 AND end_reason = 0 AND expires_at > clock_timestamp()";
        let held = sqlx::query_scalar(query).bind(lock);
        held.fetch_one(&self.app.db.pool).await.unwrap()
    }

    /// Ends the lease behind its holder's back, as an administrator does.
    pub(super) async fn break_lock(&self, lock: &str) {
        let broken =
            "UPDATE locks SET expires_at = clock_timestamp(), end_reason = 2 WHERE name = $1";
        let broken = sqlx::query(broken).bind(lock).execute(&self.app.db.pool);
        assert_eq!(broken.await.unwrap().rows_affected(), 1);
    }
}

/// Runs a command to its end.
pub(super) async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Waits for the end of a command. Returns its exit code.
pub(super) async fn end_of(mut child: Child) -> Option<i32> {
    tokio::task::spawn_blocking(move || child.wait().unwrap().code())
        .await
        .unwrap()
}

pub(super) fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

pub(super) fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Fields of `/proc/<pid>/stat` behind the program's name: state, parent, group, session.
pub(super) fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(") ")?.1;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// False for a process that has ended, waited for or not.
pub(super) fn works(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields[0].as_str(), "Z" | "X"))
}

fn all_pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect()
}

pub(super) fn children_of(parent: i32) -> Vec<i32> {
    let parent = parent.to_string();
    let is_child = |&pid: &i32| stat(pid).is_some_and(|fields| fields[1] == parent);
    all_pids().into_iter().filter(is_child).collect()
}

/// Every process that works and has this lease in its environment: the job, however its processes
/// have rearranged themselves.
pub(super) fn job_of(lease_id: &str) -> Vec<i32> {
    let variable = format!("LOCKABLE_LEASE_ID={lease_id}");
    let is_of_job = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|it| it == variable.as_bytes())
    };
    let mut pids = all_pids();
    pids.retain(|pid| is_of_job(pid) && works(*pid));
    pids
}

/// Numbers that commands have written to this file, once there are as many.
pub(super) async fn numbers(file: &Path, count: usize) -> Vec<i32> {
    eventually("the commands run", async || {
        let text = std::fs::read_to_string(file).ok()?;
        let found: Vec<i32> = text
            .split_terminator('\n')
            .filter_map(|line| line.parse().ok())
            .collect();
        (found.len() == count).then_some(found)
    })
    .await
}

/// Standard errors that cannot be written, and how each is called.
pub(super) fn broken_outputs() -> Vec<(&'static str, Stdio)> {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let (reader, without_reader) = std::io::pipe().unwrap();
    drop(reader);
    vec![
        ("a full disk", Stdio::from(full.unwrap())),
        (
            "a reader that has gone",
            Stdio::from(OwnedFd::from(without_reader)),
        ),
    ]
}

/// A pipe that is full, and whose reader does not read.
pub(super) fn full_pipe() -> (std::io::PipeReader, Stdio) {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Write;

    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    fcntl(writer.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, Stdio::from(OwnedFd::from(writer)))
}

/// Waits until a service answers that it is ready.
pub(super) async fn wait_until_ready(address: &str) {
    let ready = || Client::new(format!("http://{address}")).request(Method::GET, "/readyz");
    eventually("it is ready", async || {
        let answer = ready().send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

/// An address that nobody listens on.
pub(super) fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

//! The service in operation: the binary on its embedded default and on a database of the
//! operator's, its commands, TLS, stops.

mod admin_tokens;
mod backup;
mod client_answers;
mod client_break;
mod client_break_node;
mod client_commands;
mod client_job;
mod client_line;
mod client_list;
mod client_machine;
mod client_manual;
mod client_outputs;
mod client_requests;
mod client_script;
mod client_status;
mod client_status_node;
mod client_waiting;
mod client_watch;
mod client_watch_node;
mod client_world;
mod connections;
mod embedded;
mod environment;
mod log;
mod nodes;
mod settings;
mod tls;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::support::prelude::*;
use crate::support::process::lockable;

/// A data directory for an embedded cluster, which runs only as long as a process of the test's
/// does.
struct DataDir(TempDir);

impl DataDir {
    fn new() -> Self {
        crate::support::cluster::may_start_cluster();
        Self(
            tempfile::Builder::new()
                .prefix("lkt-data-")
                .tempdir_in("/tmp")
                .unwrap(),
        )
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `lockable serve` on it.
    fn serve(&self) -> Process {
        Process::start(|command| {
            command.arg("--data-dir").arg(self.path());
        })
    }

    /// Any command on it, run to its end.
    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = lockable();
        command.args(arguments).arg("--data-dir").arg(self.path());
        command
    }

    /// An account with this plan, and a token of it, by command.
    fn account(&self, plan: &str) -> String {
        succeeded(&self.run(&[
            "admin",
            "account",
            "create",
            "--email",
            "ada@example.com",
            "--plan",
            plan,
        ]));
        succeeded(&self.run(&["admin", "token", "create", "--email", "ada@example.com"]))
            .trim()
            .to_owned()
    }

    /// The process of its PostgreSQL, as PostgreSQL has written it down.
    fn postmaster(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.path().join("postgres/postmaster.pid")).ok()?;
        Some(Pid::from_raw(text.lines().next()?.parse().ok()?))
    }

    /// A session as the service's role.
    async fn connect(&self) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(self.path().join("run"))
            .port(5432)
            .username("lockable")
            .database("lockable")
            .ssl_mode(PgSslMode::Disable);
        PgConnection::connect_with(&options).await.unwrap()
    }
}

impl Drop for DataDir {
    /// PostgreSQL outlives a killed service by a moment, and writes into the folder that is about
    /// to be removed.
    fn drop(&mut self) {
        let started = std::time::Instant::now();
        while self.postmaster().is_some_and(is_running)
            && started.elapsed() < crate::support::wait::DEADLINE
        {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// The standard output of a command that succeeded.
#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The standard error of a command that ended with this exit code.
#[track_caller]
fn failed(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn is_running(pid: Pid) -> bool {
    nix::sys::signal::kill(pid, None).is_ok()
}

/// The binary in a place that every user can reach: the project may be in root's home.
fn reachable_binary(dir: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let copy = dir.join("lockable");
    std::fs::copy(env!("CARGO_BIN_EXE_lockable"), &copy).unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

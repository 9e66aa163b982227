//! The log and its reader, who may not read.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::DataDir;
use crate::support::client::Client;
use crate::support::prelude::*;
use crate::support::process::lockable;

/// `lockable serve` whose log is read only by the test. Killed when dropped.
struct Unread {
    child: Child,
    log: BufReader<ChildStderr>,
    service: Client,
    metrics: Client,
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Unread {
    fn start(database: &Database, data: &DataDir) -> Self {
        let mut command = lockable();
        command
            .args(["serve", "--log-format", "json", "--unsafe-database"])
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data.path())
            .env("DATABASE_URL", database.url())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let listening = next_line(&mut log, |line| line["message"] == "listening");
        let client = |field: &str| {
            let address: SocketAddr = listening[field].as_str().unwrap().parse().unwrap();
            Client::new(format!("http://{address}"))
        };
        Self {
            service: client("address"),
            metrics: client("metrics"),
            child,
            log,
        }
    }

    /// Sends requests until so many more lines were dropped. Each of them is answered.
    async fn drop_lines(&self, more: f64) {
        let before = self.dropped().await;
        while self.dropped().await < before + more {
            let requests = (0..16).map(|_| async {
                for _ in 0..50 {
                    assert_eq!(self.service.get("/healthz").await.status, 200);
                }
            });
            futures_util::future::join_all(requests).await;
        }
    }

    async fn dropped(&self) -> f64 {
        let text = self.metrics.get("/metrics").await.text;
        let name = "lockable_log_lines_dropped_total ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in:\n{text}"))
            .parse()
            .unwrap()
    }
}

fn next_line(
    log: &mut BufReader<ChildStderr>,
    is_it: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let lines = log.lines().map(|line| line.unwrap());
    let mut lines = lines.map(|line| serde_json::from_str(&line).unwrap());
    lines.find(is_it).expect("its log goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_read_loses_lines_and_stops_nothing() {
    let database = Database::create().await;
    let data = DataDir::new();
    let mut node = Unread::start(&database, &data);
    node.drop_lines(100.0).await;
    // It goes on: every line is one, and the gap is in it. Read aside, as a reader would.
    let dropped = node.dropped().await;
    let said =
        tokio::task::block_in_place(|| next_line(&mut node.log, |line| line["lines"].is_u64()));
    let message = said["message"].as_str().unwrap();
    assert!(
        message.contains("dropped") && said["level"] == "WARN",
        "{said}"
    );
    assert!(said["lines"].as_f64().unwrap() >= dropped, "{said}");
    // Not read again, it ends all the same, and in order.
    node.drop_lines(1.0).await;
    kill(
        Pid::from_raw(node.child.id().cast_signed()),
        Signal::SIGTERM,
    )
    .unwrap();
    let status = eventually("it stops", async || node.child.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}

//! More connections than there is room for.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use super::DataDir;
use crate::support::client::Client;
use crate::support::prelude::*;
use crate::support::process::lockable_after;

/// A node that may have few descriptors, the hard limit included.
fn node(database: &Database, data: &DataDir, descriptors: u32, more: &[&str]) -> Process {
    Process::start_by(
        lockable_after(&format!("ulimit -n {descriptors}")),
        |command| {
            command
                .env("DATABASE_URL", database.url())
                .args(["--unsafe-database", "--database-connections", "4"])
                .args(more)
                .arg("--data-dir")
                .arg(data.path());
        },
    )
}

fn metrics_of(node: &Process) -> Client {
    let address: SocketAddr = node.wait_for_line("where its metrics are", |line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["metrics"].as_str()?.parse().ok()
    });
    Client::new(format!("http://{address}"))
}

async fn counted(metrics: &Client, name: &str) -> f64 {
    let text = metrics.get("/metrics").await.text;
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A request from another address of this machine, on a connection of its own.
async fn status_from(node: &Process, address: Ipv4Addr) -> reqwest::Result<u16> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .local_address(IpAddr::V4(address))
        .build()?;
    let answer = client.get(format!("{}/readyz", node.url())).send().await?;
    Ok(answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out() {
    let (database, data) = (Database::create().await, DataDir::new());
    // More than there are descriptors; the kernel answers for those that nobody accepts.
    let node = node(&database, &data, 500, &[]);
    let metrics = metrics_of(&node);
    let open = || TcpStream::connect(node.address).unwrap();
    let idle: Vec<TcpStream> = (0..800).map(|_| open()).collect();
    // Somebody else is not concerned.
    assert_eq!(
        status_from(&node, Ipv4Addr::new(127, 0, 0, 2))
            .await
            .unwrap(),
        200
    );
    assert_eq!(metrics.get("/readyz").await.status, 200);
    assert!(
        counted(
            &metrics,
            "lockable_connections_refused_total{bound=\"network\"}"
        )
        .await
            > 0.0
    );
    node.wait_for_line("that connections are refused", |line| {
        (line.contains("connections were refused") && line.contains("127.0.0.1")).then_some(())
    });
    // From the same address, there is room as soon as its own are idle for a moment.
    eventually("there is room", async || {
        (status_from(&node, Ipv4Addr::LOCALHOST).await.ok()? == 200).then_some(())
    })
    .await;
    assert!(counted(&metrics, "lockable_connections_closed_idle_total").await > 0.0);
    assert_eq!(
        counted(&metrics, "lockable_accepts_failed_total").await,
        0.0
    );
    drop(idle);
    eventually("closed ones are forgotten", async || {
        (counted(&metrics, "lockable_connections ").await < 10.0).then_some(())
    })
    .await;
}

/// Sends a request on a kept connection and reads its answer.
fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")?;
    let mut answer = [0; 1000];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_use_outlives_those_that_are_not() {
    let (database, data) = (Database::create().await, DataDir::new());
    let few = ["--connections", "16", "--connections-per-network", "16"];
    let node = node(&database, &data, 500, &few);
    let metrics = metrics_of(&node);
    let closed = "lockable_connections_closed_idle_total";
    let mut used = TcpStream::connect(node.address).unwrap();
    let mut idle = Vec::new();
    let started = Instant::now();
    // Until every place but that of the one in use was given up twice.
    while counted(&metrics, closed).await < 30.0 {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "no idle one is closed"
        );
        assert!(ask(&mut used).unwrap().starts_with("HTTP/1.1 200"));
        idle.push(TcpStream::connect(node.address).unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ask(&mut used).unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_accepts_are_logged_and_counted() {
    let (database, data) = (Database::create().await, DataDir::new());
    let node = node(&database, &data, 500, &[]);
    // A kept connection, for when there are no new ones.
    let metrics = metrics_of(&node);
    let failed = "lockable_accepts_failed_total";
    assert_eq!(counted(&metrics, failed).await, 0.0);
    if !cfg!(target_os = "linux") {
        // Nobody else can change a process's limits.
        return;
    }
    let limit = |soft: u32| {
        let pid = node.pid().to_string();
        let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap();
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--nofile={soft}:500")])
            .uid(owner.uid())
            .gid(owner.gid())
            .status();
        assert!(status.unwrap().success());
    };
    // Fewer than it has open already.
    limit(5);
    let waiting = TcpStream::connect(node.address).unwrap();
    node.wait_for_line("that it cannot accept", |line| {
        (line.contains("could not be accepted") && line.contains("\"ERROR\"")).then_some(())
    });
    eventually("it is counted", async || {
        (counted(&metrics, failed).await > 1.0).then_some(())
    })
    .await;
    let said = node.log().matches("could not be accepted").count();
    assert!(said < 3, "said {said} times within seconds");
    limit(500);
    let mut waiting = waiting;
    assert!(ask(&mut waiting).unwrap().starts_with("HTTP/1.1 200"));
}

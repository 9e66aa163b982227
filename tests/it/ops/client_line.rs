//! `lockable run` and `lockable acquire --wait` in the line of a lock.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::client_world::*;
use super::{failed, succeeded};
use crate::support::prelude::*;

/// `lockable run` of a job that writes its name to the file `order`, and then runs until there is
/// the file `end-NAME`.
fn run(world: &World, folder: &TempDir, name: &str, options: &[&str]) -> Child {
    start(world, &world.app.url(), folder, name, options)
}

/// As [`run`], of the service at this URL.
fn start(world: &World, url: &str, folder: &TempDir, name: &str, options: &[&str]) -> Child {
    let script = format!("echo {name} >> order; while [ ! -e end-{name} ]; do sleep 0.02; done");
    let arguments = [&["run"], options, &["job", "--", "sh", "-c", &script]].concat();
    world
        .command(&arguments)
        .current_dir(folder)
        .env("LOCKABLE_URL", url)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(folder: &TempDir, name: &str) {
    std::fs::write(folder.path().join(format!("end-{name}")), "").unwrap();
}

/// The names of the jobs that have begun, once this one has.
async fn order_up_to(folder: &Path, name: &str) -> String {
    eventually(name, async || {
        let order = std::fs::read_to_string(folder.join("order")).ok()?;
        order.ends_with(&format!("{name}\n")).then_some(order)
    })
    .await
    .replace('\n', " ")
}

/// Returns once so many requests stand in the line.
async fn in_line(world: &World, waiters: i64) {
    let count = "SELECT count(*) FROM lock_tickets WHERE claim_token IS NULL AND NOT is_detached";
    eventually("they stand in the line", async || {
        (world.app.db.value::<i64>(count).await == waiters).then_some(())
    })
    .await;
}

/// The places in the line, with those that are kept for clients that may come back.
async fn places(world: &World) -> i64 {
    let count = "SELECT count(*) FROM lock_tickets";
    world.app.db.value(count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_served_in_the_order_of_their_arrival() {
    let (world, folder) = (World::new().await, TempDir::new().unwrap());
    let mut runs = Vec::new();
    runs.push(run(&world, &folder, "a", &[]));
    order_up_to(folder.path(), "a").await;
    for (waiters, name) in [(1, "b"), (2, "c"), (3, "d")] {
        runs.push(run(&world, &folder, name, &["-w", "60"]));
        in_line(&world, waiters).await;
    }
    // Nobody who does not wait passes them.
    for name in ["a", "b", "c"] {
        failed(&world.run(&["run", "-n", "job", "--", "true"]).await, 75);
        end(&folder, name);
        let next = char::from(name.as_bytes()[0] + 1).to_string();
        order_up_to(folder.path(), &next).await;
    }
    assert_eq!(order_up_to(folder.path(), "d").await, "a b c d ");
    end(&folder, "d");
    for run in runs {
        assert_eq!(end_of(run).await, Some(0));
    }
    assert!(!world.is_held("job").await);
    assert_eq!(places(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_gives_its_place_up() {
    let (world, folder) = (World::new().await, TempDir::new().unwrap());
    let first = run(&world, &folder, "a", &[]);
    order_up_to(folder.path(), "a").await;
    let second = run(&world, &folder, "b", &[]);
    in_line(&world, 1).await;
    let third = run(&world, &folder, "c", &[]);
    in_line(&world, 2).await;
    send(pid(&second), Signal::SIGINT);
    assert_eq!(end_of(second).await, Some(128 + 2));
    assert_eq!(places(&world).await, 1, "its place is not kept");
    end(&folder, "a");
    assert_eq!(order_up_to(folder.path(), "c").await, "a c ");
    end(&folder, "c");
    for run in [first, third] {
        assert_eq!(end_of(run).await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_in_line_gets_the_lock_of_a_holder_that_was_killed_when_its_lease_ends() {
    let (world, folder) = (World::new().await, TempDir::new().unwrap());
    let first = run(&world, &folder, "a", &["--lease", "3"]);
    order_up_to(folder.path(), "a").await;
    let second = run(&world, &folder, "b", &[]);
    in_line(&world, 1).await;
    send(pid(&first), Signal::SIGKILL);
    end_of(first).await;
    let lease_ends: String = world
        .app
        .db
        .value("SELECT expires_at::text FROM locks")
        .await;
    order_up_to(folder.path(), "b").await;
    let after = format!("SELECT acquired_at >= '{lease_ends}' FROM locks");
    assert!(world.app.db.value::<bool>(&after).await);
    end(&folder, "b");
    assert_eq!(end_of(second).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_when_it_was_to_end_and_not_before() {
    let world = World::new().await;
    succeeded(&world.run(&["acquire", "job"]).await);
    let began = Instant::now();
    let output = world.run(&["run", "-w", "2", "job", "--", "true"]).await;
    assert!(began.elapsed() >= Duration::from_secs(2));
    let said = failed(&output, 75);
    let expected = ["waiting for the lock \"job\"", "somebody else has the lock"];
    assert_eq!(said.lines().count(), expected.len(), "{said}");
    for (line, expected) in said.lines().zip(expected) {
        assert!(line.contains(expected), "{said}");
    }
    assert_eq!(places(&world).await, 0, "its place is given up");
    let quiet = world.run(&["run", "-qw1.5", "job", "--", "true"]).await;
    assert_eq!(failed(&quiet, 75), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn acquire_waits_in_line_too() {
    let world = World::new().await;
    succeeded(&world.run(&["acquire", "job"]).await);
    let began = Instant::now();
    for option in ["-w0.5", "--wait=500ms"] {
        failed(&world.run(&["acquire", "job", option]).await, 1);
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    let id = "5a0c1b5e-4c5e-4f0e-8f57-5d5ad5d5e0a1";
    let mut first = world.command(&["acquire", "job", "--wait", "30", "--json"]);
    let first = first.stdout(Stdio::piped()).spawn().unwrap();
    in_line(&world, 1).await;
    let long = ["acquire", "job", "--wait", "5m", "--lease-id", id];
    let second = world.command(&long).stdout(Stdio::null()).spawn().unwrap();
    in_line(&world, 2).await;
    succeeded(&world.run(&["release", "job"]).await);
    let first = tokio::task::spawn_blocking(move || first.wait_with_output().unwrap());
    let granted: serde_json::Value =
        serde_json::from_str(&succeeded(&first.await.unwrap())).unwrap();
    assert!(granted["waited_ms"].as_u64() > Some(0), "{granted}");
    succeeded(&world.run(&["release", "job"]).await);
    assert_eq!(end_of(second).await, Some(0));
    succeeded(&world.run(&["release", "job", "--lease-id", id]).await);
    // Only an id keeps the place from one request to the next.
    let said = failed(&world.run(&["acquire", "job", "--wait", "51"]).await, 2);
    assert!(said.contains("--lease-id"), "{said}");
    failed(&world.run(&["heartbeat", "job", "--wait", "1"]).await, 2);
    assert!(!world.is_held("job").await);
}

/// Leads each new connection to the node that it is told.
#[derive(Clone)]
struct Balancer {
    url: String,
    node: Arc<Mutex<std::net::SocketAddr>>,
}

impl Balancer {
    async fn to(node: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let balancer = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            node: Arc::new(Mutex::new(node)),
        };
        let node = Arc::clone(&balancer.node);
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let node = *node.lock().unwrap();
                tokio::spawn(async move {
                    let mut node = TcpStream::connect(node).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
                });
            }
        });
        balancer
    }
}

/// Whether a node stops or is killed: a run that waits there goes on at another one, in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_outlives_the_node_that_kept_it() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let (world, folder) = (World::new().await, TempDir::new().unwrap());
        let url = world.app.db.url();
        let node = tokio::task::spawn_blocking(move || {
            Process::start(|command| {
                command.args(["--unsafe-database", "--database-url", &url]);
            })
        });
        let node = node.await.unwrap();
        let balancer = Balancer::to(node.address).await;
        succeeded(&world.run(&["acquire", "job"]).await);
        let mut first = start(&world, &balancer.url, &folder, "a", &[]);
        in_line(&world, 1).await;
        let second = run(&world, &folder, "b", &[]);
        in_line(&world, 2).await;
        let mut said = std::io::BufReader::new(first.stderr.take().unwrap());
        let said = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut said, &mut line).unwrap();
            (line, said)
        });
        let (line, _said) = said.await.unwrap();
        assert!(line.contains("waiting for the lock"), "{line}");
        *balancer.node.lock().unwrap() = world.app.address;
        node.signal(signal);
        let ended = tokio::task::spawn_blocking(move || node.wait().success());
        assert_eq!(ended.await.unwrap(), signal == Signal::SIGTERM);
        let moved = "SELECT count(*) = 2 AND count(DISTINCT node_id) = 1 FROM lock_tickets
                      WHERE claim_token IS NULL AND NOT is_detached";
        eventually("it waits at the other node", async || {
            world.app.db.value::<bool>(moved).await.then_some(())
        })
        .await;
        succeeded(&world.run(&["release", "job"]).await);
        order_up_to(folder.path(), "a").await;
        end(&folder, "a");
        assert_eq!(order_up_to(folder.path(), "b").await, "a b ");
        end(&folder, "b");
        for run in [first, second] {
            assert_eq!(end_of(run).await, Some(0));
        }
    }
}

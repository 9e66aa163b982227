//! A crowd: connections that are idle at first and then all wait for locks that stay held, so that
//! the service's memory can be compared.

use std::cell::Cell;
use std::io::BufRead;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::OPENING;
use crate::hand_over::{LONGEST_WAIT_MS, get_request};
use crate::http::{self, Connection};

/// The number of requests that are sent at once, and the pause between them: the service's memory
/// for those that wait is measured, not that of a burst.
const JOINING: usize = 100;
const JOIN_PAUSE: Duration = Duration::from_millis(40);
/// The pause after a request that was answered with an error.
const ASK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Args, Clone)]
pub(crate) struct Crowd {
    /// The socket address to connect to.
    #[arg(long)]
    address: SocketAddr,
    /// The API token.
    #[arg(long)]
    token: String,
    /// The number of connections, each of which will wait.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// The number of locks that they wait for.
    #[arg(long, default_value_t = 1000)]
    locks: usize,
}

/// Takes the locks, opens all connections and sends a heartbeat on each; reports that. At the first
/// line of standard input, lets all of them wait; reports when that is sent. At the second line, or
/// the end, reports how many were answered meanwhile: none should be.
pub(crate) fn run(crowd: &Crowd) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (lines, mut line) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for read in std::io::stdin().lock().lines() {
            if read.is_err() || lines.send(()).is_err() {
                return;
            }
        }
    });
    let local = tokio::task::LocalSet::new();
    let outcome = runtime.block_on(local.run_until(async {
        let (connections, run) = open(crowd).await?;
        println!("{}", json!({"held": connections.len()}));
        line.recv().await;
        let answered = Rc::new(Cell::new(0));
        for (index, mut connection) in connections.into_iter().enumerate() {
            if index % JOINING == 0 {
                tokio::time::sleep(JOIN_PAUSE).await;
            }
            let path = format!(
                "/v1/acquire/crowd-{run:016x}-{}?wait_ms={LONGEST_WAIT_MS}&lease_id={}",
                index % crowd.locks,
                http::new_lease_id(),
            );
            let request = get_request(crowd.address, &crowd.token, &path);
            let answered = Rc::clone(&answered);
            tokio::task::spawn_local(async move {
                // An error, such as `overloaded`: it asks again for its place.
                while matches!(connection.call(&request).await, Ok((429 | 503, ..))) {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                answered.set(answered.get() + 1);
            });
        }
        tokio::time::sleep(JOIN_PAUSE).await;
        println!("{}", json!({"sent": crowd.connections}));
        line.recv().await;
        Ok::<_, std::io::Error>(answered.get())
    }));
    match outcome {
        Ok(answered) => json!({"answered": answered}),
        Err(error) => json!({"error": error.to_string()}),
    }
}

/// Takes the locks for a minute and more, and opens the connections.
async fn open(crowd: &Crowd) -> std::io::Result<(Vec<Connection>, u64)> {
    let run: u64 = rand::random();
    let request = |path: &str| get_request(crowd.address, &crowd.token, path);
    let mut holder = Connection::open(crowd.address).await?;
    for lock in 0..crowd.locks {
        let path = format!("/v1/acquire/crowd-{run:016x}-{lock}?lease_ms=600000");
        let (_, _, body) = holder.call(&request(&path)).await?;
        if http::find(body, b"true").is_none() {
            return Err(std::io::Error::other("a lock of the crowd is not free"));
        }
    }
    let heartbeat = request("/v1/heartbeat/nobody-holds-it");
    let connections = futures_util::stream::iter(0..crowd.connections)
        .map(|_| async {
            let mut connection = Connection::open(crowd.address).await?;
            connection.call(&heartbeat).await?;
            Ok::<_, std::io::Error>(connection)
        })
        .buffer_unordered(OPENING)
        .try_collect()
        .await?;
    Ok((connections, run))
}

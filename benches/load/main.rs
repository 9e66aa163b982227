//! A load generator for `script/bench`: HTTP/1.1 over kept connections, in five shapes.
//!
//! * `closed`: each connection sends its next request as soon as it has a response, as wrk does.
//!   Unlike wrk it reads every response and counts those that are as expected.
//! * `open`: requests are due at a fixed rate, whatever becomes of the earlier ones, and their
//!   latency counts from the instant they were due. A closed loop slows down with the service and
//!   so hides queueing ("coordinated omission").
//! * `idle`: connections that send one request and then only stay.
//! * `hand-over`: connections that wait in line for locks, and each hand theirs to the next.
//! * `crowd`: connections that send one request, and when they are told to, all wait in line.
//!
//! It prints one JSON object. Latencies are in microseconds.

mod crowd;
mod hand_over;
mod histogram;
mod http;

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Barrier, OnceLock};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use futures_util::StreamExt;
use serde_json::{Value, json};

use histogram::Histogram;
use http::{Connection, Response, Template};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    shape: Shape,
}

#[derive(Subcommand)]
enum Shape {
    /// As fast as responses arrive.
    Closed(Load),
    /// At a fixed rate.
    Open {
        #[command(flatten)]
        load: Load,
        /// Requests a second.
        #[arg(long)]
        rate: f64,
    },
    /// Connections that stay until standard input ends.
    Idle(Target),
    /// Waiters in line, each of which hands its lock to the next.
    HandOver(hand_over::Lines),
    /// Connections that stay until standard input has a line, then wait for locks until it ends.
    Crowd(crowd::Crowd),
}

#[derive(Args, Clone)]
struct Target {
    /// The socket address to connect to.
    #[arg(long)]
    address: SocketAddr,
    /// Path and query; `{new}` becomes a name never used before, `{of}` one of `--among` names,
    /// `{each}` each of them once, `{own}` a name of the connection's own, `{id}` a lease id never
    /// used before (with `{each}`: that of the lock's lease).
    #[arg(long)]
    path: String,
    /// Path and query of a second request, sent after each one for the same name and lease id.
    #[arg(long)]
    then: Option<String>,
    /// The method of requests.
    #[arg(long, default_value = "GET")]
    method: String,
    /// The body of requests; `{new64}` becomes the base64 of a name never used before.
    #[arg(long, default_value = "")]
    body: String,
    /// API tokens, used in turn by the connections.
    #[arg(long)]
    token: Vec<String>,
    /// The number of connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// The number of names that `{of}` and `{each}` choose from.
    #[arg(long, default_value_t = 10_000)]
    among: u64,
    /// A part of the body of every expected response.
    #[arg(long, default_value = "\"response\": true")]
    expect: String,
}

#[derive(Args, Clone)]
struct Load {
    #[command(flatten)]
    target: Target,
    /// The time to measure, seconds.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// The time to run before that, seconds.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// The number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// The counts of one thread, from the end of the warm-up to the end.
#[derive(Default)]
struct Counts {
    expected: Histogram,
    unexpected: Histogram,
    refused: Histogram,
    statuses: std::collections::BTreeMap<u16, u64>,
    broken_connections: u64,
    due: u64,
    sent: u64,
}

impl Counts {
    /// Counts a response. `since_due` counts from the instant that the request was due. A refusal
    /// is measured from the instant that its request was sent: the time that the service takes to
    /// say no.
    fn count(&mut self, response: &Response, since_due: Duration, since_sent: Duration) {
        *self.statuses.entry(response.status).or_default() += 1;
        match (response.status, response.is_expected) {
            (200, true) => self.expected.record(since_due),
            (429 | 503, _) => self.refused.record(since_sent),
            _ => self.unexpected.record(since_due),
        }
    }

    fn add(&mut self, other: &Self) {
        self.expected.add(&other.expected);
        self.unexpected.add(&other.unexpected);
        self.refused.add(&other.refused);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.broken_connections += other.broken_connections;
        self.due += other.due;
        self.sent += other.sent;
    }

    fn report(&self, seconds: f64) -> Value {
        let statuses: serde_json::Map<_, _> = self
            .statuses
            .iter()
            .map(|(status, count)| (status.to_string(), json!(count)))
            .collect();
        json!({
            "seconds": seconds,
            "rate": self.expected.count() as f64 / seconds,
            "due_rate": self.due as f64 / seconds,
            "sent_rate": self.sent as f64 / seconds,
            "refused_rate": self.refused.count() as f64 / seconds,
            "statuses": statuses,
            "broken_connections": self.broken_connections,
            "good": self.expected.report(),
            "refused": self.refused.report(),
            "unexpected": self.unexpected.report(),
        })
    }
}

/// The times of a run: when a thread may send, and which responses it counts.
struct Schedule {
    counts_from: Instant,
    ends: Instant,
    /// `None` to send as fast as responses arrive.
    arrivals: Option<Arrivals>,
}

/// Requests that are due one after the other at equal distances.
struct Arrivals {
    next: Cell<u64>,
    first: Instant,
    distance: Duration,
}

impl Arrivals {
    fn next(&self) -> Instant {
        let at = self.next.get();
        self.next.set(at + 1);
        self.first + Duration::from_nanos(self.distance.as_nanos() as u64 * at)
    }
}

fn main() {
    let report = match Cli::parse().shape {
        Shape::Closed(load) => run(&load, None),
        Shape::Open { load, rate } => run(&load, Some(rate)),
        Shape::Idle(target) => idle(&target),
        Shape::HandOver(lines) => hand_over::run(&lines),
        Shape::Crowd(crowd) => crowd::run(&crowd),
    };
    println!("{report}");
}

fn run(load: &Load, rate: Option<f64>) -> Value {
    let threads = load.threads.clamp(1, load.target.connections);
    let start = Arc::new(Start::new(threads));
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (load, start) = (load.clone(), Arc::clone(&start));
            std::thread::spawn(move || one_thread(&load, (thread, threads), &start, rate))
        })
        .collect();
    let mut all = Counts::default();
    for worker in workers {
        all.add(
            &worker
                .join()
                .expect("a thread of the load generator panicked"),
        );
    }
    all.report(load.seconds)
}

/// The instant at which all threads begin: when every connection is open.
struct Start {
    opened: Barrier,
    at: OnceLock<Instant>,
}

impl Start {
    fn new(threads: usize) -> Self {
        Self {
            opened: Barrier::new(threads),
            at: OnceLock::new(),
        }
    }

    fn wait(&self) -> Instant {
        self.opened.wait();
        *self
            .at
            .get_or_init(|| Instant::now() + Duration::from_millis(100))
    }
}

/// The number of connections that a thread opens at once: not every listener's backlog is long.
const OPENING: usize = 32;

fn one_thread(
    load: &Load,
    (thread, threads): (usize, usize),
    start: &Start,
    rate: Option<f64>,
) -> Counts {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let socket_address = load.target.address;
    let opened: Vec<_> = runtime.block_on(
        futures_util::stream::iter((thread..load.target.connections).step_by(threads))
            .map(|index| async move { (index, Connection::open(socket_address).await) })
            .buffer_unordered(OPENING)
            .collect(),
    );
    let start = start.wait();
    let counts_from = start + Duration::from_secs_f64(load.warm_up);
    let ends = counts_from + Duration::from_secs_f64(load.seconds);
    let arrivals = rate.map(|rate| Arrivals {
        next: Cell::new(0),
        // The threads' arrivals lie between one another's.
        first: start + Duration::from_secs_f64(thread as f64 / rate),
        distance: Duration::from_secs_f64(threads as f64 / rate),
    });
    let counts = Rc::new(RefCell::new(Counts::default()));
    let schedule = Rc::new(Schedule {
        counts_from,
        ends,
        arrivals,
    });
    for (index, connection) in opened {
        let template = Template::new(&load.target, index);
        let (counts, schedule) = (Rc::clone(&counts), Rc::clone(&schedule));
        local.spawn_local(async move {
            let outcome = match connection {
                Ok(connection) => {
                    one_connection(
                        connection,
                        socket_address,
                        template,
                        start,
                        &schedule,
                        &counts,
                    )
                    .await
                }
                Err(error) => Err(error),
            };
            if outcome.is_err() {
                counts.borrow_mut().broken_connections += 1;
            }
        });
    }
    // A response that arrives after the end is not counted.
    runtime.block_on(local.run_until(async {
        tokio::time::sleep_until((ends + Duration::from_millis(200)).into()).await;
    }));
    if let Some(arrivals) = &schedule.arrivals {
        let in_time = |until: Instant| {
            until
                .saturating_duration_since(arrivals.first)
                .div_duration_f64(arrivals.distance)
        };
        counts.borrow_mut().due = (in_time(schedule.ends) - in_time(schedule.counts_from)) as u64;
    }
    counts.take()
}

async fn one_connection(
    mut connection: Connection,
    socket_address: SocketAddr,
    mut template: Template,
    start: Instant,
    schedule: &Schedule,
    counts: &RefCell<Counts>,
) -> std::io::Result<()> {
    tokio::time::sleep_until(start.into()).await;
    loop {
        let due = match &schedule.arrivals {
            None => Instant::now(),
            Some(arrivals) => {
                let due = arrivals.next();
                if due > Instant::now() {
                    tokio::time::sleep_until(due.into()).await;
                }
                due
            }
        };
        let sent = Instant::now();
        if sent >= schedule.ends {
            return Ok(());
        }
        if sent >= schedule.counts_from {
            counts.borrow_mut().sent += 1;
        }
        match connection.send(&mut template).await {
            Ok(response) => {
                let now = Instant::now();
                if (schedule.counts_from..schedule.ends).contains(&now) {
                    counts.borrow_mut().count(&response, now - due, now - sent);
                }
            }
            Err(_) => {
                counts.borrow_mut().broken_connections += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
                connection = Connection::open(socket_address).await?;
            }
        }
    }
}

/// Opens all connections, sends one request on each, reports that on standard output, and holds
/// them until standard input ends.
fn idle(target: &Target) -> Value {
    const OPENING_AT_ONCE: usize = 64;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let open_some = async |first: usize| {
        let (mut held, mut good) = (Vec::new(), 0);
        for index in (first..target.connections).step_by(OPENING_AT_ONCE) {
            let mut connection = Connection::open(target.address).await?;
            let response = connection.send(&mut Template::new(target, index)).await?;
            good += usize::from(response.is_expected);
            held.push(connection);
        }
        Ok::<_, std::io::Error>((held, good))
    };
    runtime.block_on(async {
        let opened = futures_util::future::try_join_all((0..OPENING_AT_ONCE).map(open_some)).await;
        match opened {
            Err(error) => json!({"held": 0, "good": 0, "error": error.to_string()}),
            Ok(parts) => {
                let held: usize = parts.iter().map(|(held, _)| held.len()).sum();
                let good: usize = parts.iter().map(|(_, good)| good).sum();
                let report = json!({"held": held, "good": good});
                println!("{report}");
                // Blocks the runtime, which has nothing to do.
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
                report
            }
        }
    })
}

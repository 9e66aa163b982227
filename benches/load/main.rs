//! A load generator for `script/bench`: HTTP/1.1 over kept connections, in three shapes.
//!
//! * `closed`: each connection asks again as soon as it is answered, as wrk does. Unlike wrk it
//!   reads every answer and counts those that say what was expected.
//! * `open`: requests are due at a fixed rate, whatever becomes of the earlier ones, and their
//!   latency counts from the instant they were due. A closed loop slows down with the service and
//!   so hides queueing ("coordinated omission").
//! * `idle`: connections that ask once and then only stay.
//!
//! It prints one JSON object. Latencies are in microseconds.

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
use http::{Answer, Connection, Template};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    shape: Shape,
}

#[derive(Subcommand)]
enum Shape {
    /// As fast as the answers come.
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
}

#[derive(Args, Clone)]
struct Target {
    /// Where to connect.
    #[arg(long)]
    address: SocketAddr,
    /// Path and query; `{new}` becomes a name never used before, `{of}` one of `--among` names.
    #[arg(long)]
    path: String,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// A body; `{new64}` becomes the base64 of a name never used before.
    #[arg(long, default_value = "")]
    body: String,
    /// API tokens, used in turn by the connections.
    #[arg(long)]
    token: Vec<String>,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How many names `{of}` chooses from.
    #[arg(long, default_value_t = 10_000)]
    among: u64,
    /// What the body of a good answer contains.
    #[arg(long, default_value = "\"response\": true")]
    expect: String,
}

#[derive(Args, Clone)]
struct Load {
    #[command(flatten)]
    target: Target,
    /// How long to measure, seconds.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// How long to run before that, seconds.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// What one thread saw between the end of the warm-up and the end.
#[derive(Default)]
struct Seen {
    good: Histogram,
    other: Histogram,
    refused: Histogram,
    statuses: std::collections::BTreeMap<u16, u64>,
    broken: u64,
    due: u64,
    sent: u64,
}

impl Seen {
    /// `late` counts from the instant that the request was due. A refusal is measured from when it
    /// was sent: how long the service takes to say no.
    fn count(&mut self, answer: &Answer, late: Duration, took: Duration) {
        *self.statuses.entry(answer.status).or_default() += 1;
        match (answer.status, answer.as_expected) {
            (200, true) => self.good.record(late),
            (429 | 503, _) => self.refused.record(took),
            _ => self.other.record(late),
        }
    }

    fn add(&mut self, other: &Self) {
        self.good.add(&other.good);
        self.other.add(&other.other);
        self.refused.add(&other.refused);
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.broken += other.broken;
        self.due += other.due;
        self.sent += other.sent;
    }

    fn report(&self, seconds: f64) -> Value {
        json!({
            "seconds": seconds,
            "rate": self.good.count() as f64 / seconds,
            "due_rate": self.due as f64 / seconds,
            "sent_rate": self.sent as f64 / seconds,
            "refused_rate": self.refused.count() as f64 / seconds,
            "statuses": self.statuses.iter().map(|(status, count)| (status.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
            "broken_connections": self.broken,
            "good": self.good.report(),
            "refused": self.refused.report(),
            "unexpected": self.other.report(),
        })
    }
}

/// When a thread may send and what it counts.
struct Plan {
    counts_from: Instant,
    ends: Instant,
    /// None: as fast as the answers come.
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
    };
    println!("{report}");
}

fn run(load: &Load, rate: Option<f64>) -> Value {
    let threads = load.threads.clamp(1, load.target.connections);
    let start = Arc::new(Start {
        opened: Barrier::new(threads),
        at: OnceLock::new(),
    });
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (load, start) = (load.clone(), Arc::clone(&start));
            std::thread::spawn(move || one_thread(&load, (thread, threads), &start, rate))
        })
        .collect();
    let mut all = Seen::default();
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
    fn wait(&self) -> Instant {
        self.opened.wait();
        *self
            .at
            .get_or_init(|| Instant::now() + Duration::from_millis(100))
    }
}

/// Connections that a thread opens at once: not every listener's backlog is long.
const OPENING: usize = 32;

fn one_thread(
    load: &Load,
    (thread, threads): (usize, usize),
    start: &Start,
    rate: Option<f64>,
) -> Seen {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let address = load.target.address;
    let opened: Vec<_> = runtime.block_on(
        futures_util::stream::iter((thread..load.target.connections).step_by(threads))
            .map(|index| async move { (index, Connection::open(address).await) })
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
    let seen = Rc::new(RefCell::new(Seen::default()));
    let plan = Rc::new(Plan {
        counts_from,
        ends,
        arrivals,
    });
    for (index, connection) in opened {
        let template = Template::new(&load.target, index);
        let (seen, plan) = (Rc::clone(&seen), Rc::clone(&plan));
        local.spawn_local(async move {
            let outcome = match connection {
                Ok(connection) => {
                    one_connection(connection, address, template, start, &plan, &seen).await
                }
                Err(error) => Err(error),
            };
            if outcome.is_err() {
                seen.borrow_mut().broken += 1;
            }
        });
    }
    // What is not answered when the time is over is not counted.
    runtime.block_on(local.run_until(async {
        tokio::time::sleep_until((ends + Duration::from_millis(200)).into()).await;
    }));
    if let Some(arrivals) = &plan.arrivals {
        let in_time = |until: Instant| {
            until
                .saturating_duration_since(arrivals.first)
                .div_duration_f64(arrivals.distance)
        };
        seen.borrow_mut().due = (in_time(plan.ends) - in_time(plan.counts_from)) as u64;
    }
    seen.take()
}

async fn one_connection(
    mut connection: Connection,
    address: SocketAddr,
    mut template: Template,
    start: Instant,
    plan: &Plan,
    seen: &RefCell<Seen>,
) -> std::io::Result<()> {
    tokio::time::sleep_until(start.into()).await;
    loop {
        let due = match &plan.arrivals {
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
        if sent >= plan.ends {
            return Ok(());
        }
        if sent >= plan.counts_from {
            seen.borrow_mut().sent += 1;
        }
        match connection.ask(&mut template).await {
            Ok(answer) => {
                let now = Instant::now();
                if (plan.counts_from..plan.ends).contains(&now) {
                    seen.borrow_mut().count(&answer, now - due, now - sent);
                }
            }
            Err(_) => {
                seen.borrow_mut().broken += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
                connection = Connection::open(address).await?;
            }
        }
    }
}

/// Opens all, asks once on each, says so on standard output, and holds them until standard input
/// ends.
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
            let answer = connection.ask(&mut Template::new(target, index)).await?;
            good += usize::from(answer.as_expected);
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
                let report = json!({"held": held, "good": parts.iter().map(|(_, good)| good).sum::<usize>()});
                println!("{report}");
                // Blocks the runtime, which has nothing to do.
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
                report
            }
        }
    })
}

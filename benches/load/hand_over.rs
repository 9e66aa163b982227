//! Waiters in line. Each lock has a line of connections: the one that is granted the lock hands it
//! to the next, by a release or by letting its lease lapse, and joins the line again at its end.
//!
//! All connections of a lock are on one thread, which so knows when the holder's lease ended.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::histogram::Histogram;
use crate::http::{self, Connection};
use crate::{OPENING, Start};

/// The longest wait that version 1 allows, milliseconds.
pub(crate) const LONGEST_WAIT_MS: u64 = 60_000;

#[derive(Args, Clone)]
pub(crate) struct Lines {
    /// The socket address to connect to.
    #[arg(long)]
    address: SocketAddr,
    /// The API token.
    #[arg(long)]
    token: String,
    /// The number of locks.
    #[arg(long, default_value_t = 1)]
    locks: usize,
    /// The number of connections, all locks together.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// The length of the leases, milliseconds.
    #[arg(long, default_value_t = 30_000)]
    lease_ms: u64,
    /// The time for which a holder keeps the lock before it releases it, milliseconds.
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
    /// Holders let their leases lapse and never release them.
    #[arg(long)]
    lapse: bool,
    /// The time for the lines to form, before the first hand-over, seconds.
    #[arg(long, default_value_t = 2.0)]
    settle: f64,
    /// The time to run before measuring, seconds.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// The time to measure, seconds.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// The number of threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// The counts of one thread. Those with a time are from the end of the warm-up to the end.
#[derive(Default)]
struct Counts {
    /// From the release's sending, or from the holder's deadline, to the next waiter's response.
    hand_overs: Histogram,
    /// The same from the latest instant at which the holder's lease can have ended.
    hand_overs_at_least: Histogram,
    /// Grants before the holder's deadline, or with a fencing token that is not the highest.
    wrong_grants: u64,
    /// Waits that were answered `false`.
    refused: u64,
    /// Releases that were not answered `true`.
    lost_leases: u64,
    errors: u64,
    broken_connections: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.hand_overs.add(&other.hand_overs);
        self.hand_overs_at_least.add(&other.hand_overs_at_least);
        self.wrong_grants += other.wrong_grants;
        self.refused += other.refused;
        self.lost_leases += other.lost_leases;
        self.errors += other.errors;
        self.broken_connections += other.broken_connections;
    }
}

/// The times of a run.
struct Times {
    /// Holders keep their locks until then, so that the lines can form.
    first_release: Instant,
    counts_from: Instant,
    ends: Instant,
}

/// A lock and its line.
struct Line {
    name: String,
    /// How long after the start its line begins to form: leases that lapse do not do so all at
    /// once.
    begins_after: Duration,
    /// When the lease of the last holder ended, at the earliest and at the latest. `None` while the
    /// lock is held, and before its first grant.
    ended: Cell<Option<(Instant, Instant)>>,
    fencing_token: Cell<u64>,
}

pub(crate) fn run(lines: &Lines) -> Value {
    let threads = lines.threads.clamp(1, lines.locks);
    let start = Arc::new(Start::new(threads));
    let run: u64 = rand::random();
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (lines, start) = (lines.clone(), Arc::clone(&start));
            std::thread::spawn(move || one_thread(&lines, (thread, threads), &start, run))
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
    json!({
        "seconds": lines.seconds,
        "rate": all.hand_overs.count() as f64 / lines.seconds,
        "good": all.hand_overs.report(),
        "at_least": all.hand_overs_at_least.report(),
        "wrong_grants": all.wrong_grants,
        "refused": all.refused,
        "lost_leases": all.lost_leases,
        "errors": all.errors,
        "broken_connections": all.broken_connections,
    })
}

fn one_thread(lines: &Lines, (thread, threads): (usize, usize), start: &Start, run: u64) -> Counts {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let own_locks: Vec<_> = (thread..lines.locks)
        .step_by(threads)
        .map(|lock| {
            Rc::new(Line {
                name: format!("line-{run:016x}-{lock}"),
                begins_after: begins_after(lines, lock),
                ended: Cell::new(None),
                fencing_token: Cell::new(0),
            })
        })
        .collect();
    // As many connections for each lock, one more for the first ones where that does not work out.
    let places: Vec<_> = (0..lines.connections)
        .map(|connection| connection % lines.locks)
        .filter(|lock| lock % threads == thread)
        .map(|lock| Rc::clone(&own_locks[lock / threads]))
        .collect();
    let socket_address = lines.address;
    let opened: Vec<_> = runtime.block_on(
        futures_util::stream::iter(places)
            .map(|line| async move { (line, Connection::open(socket_address).await) })
            .buffer_unordered(OPENING)
            .collect(),
    );
    let start = start.wait();
    let first_release = start + Duration::from_secs_f64(lines.settle);
    let counts_from = first_release + Duration::from_secs_f64(lines.warm_up);
    let times = Rc::new(Times {
        first_release,
        counts_from,
        ends: counts_from + Duration::from_secs_f64(lines.seconds),
    });
    let counts = Rc::new(RefCell::new(Counts::default()));
    let mut waiters = Vec::new();
    for (line, connection) in opened {
        let (counts, times, lines) = (Rc::clone(&counts), Rc::clone(&times), lines.clone());
        waiters.push(local.spawn_local(async move {
            tokio::time::sleep_until((start + line.begins_after).into()).await;
            let outcome = match connection {
                Ok(connection) => wait_in_line(connection, &line, &lines, &times, &counts).await,
                Err(error) => Err(error),
            };
            if outcome.is_err() {
                counts.borrow_mut().broken_connections += 1;
            }
        }));
    }
    // Everybody who is still in line is served, so that the next run finds nobody.
    runtime.block_on(local.run_until(async {
        let served = futures_util::future::join_all(waiters);
        let patience = Duration::from_millis(LONGEST_WAIT_MS + lines.lease_ms);
        let _ = tokio::time::timeout_at((times.ends + patience).into(), served).await;
    }));
    counts.take()
}

fn begins_after(lines: &Lines, lock: usize) -> Duration {
    if !lines.lapse {
        return Duration::ZERO;
    }
    Duration::from_millis(lines.lease_ms).mul_f64(lock as f64 / lines.locks as f64)
}

async fn wait_in_line(
    mut connection: Connection,
    line: &Line,
    lines: &Lines,
    times: &Times,
    counts: &RefCell<Counts>,
) -> std::io::Result<()> {
    while Instant::now() < times.ends {
        let lease_id = http::new_lease_id();
        let (name, lease_ms) = (&line.name, lines.lease_ms);
        let acquire = get(
            lines,
            &format!(
                "acquire/{name}?wait_ms={LONGEST_WAIT_MS}&lease_ms={lease_ms}&lease_id={lease_id}"
            ),
        );
        let sent = Instant::now();
        let (status, head, body) = connection.call(&acquire).await?;
        let received = Instant::now();
        if http::find(body, b"true").is_none() {
            match status {
                200 => counts.borrow_mut().refused += 1,
                _ => counts.borrow_mut().errors += 1,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let number = |header| http::number_in(head, header).unwrap_or_default();
        let waited = Duration::from_millis(number("lockable-waited-ms"));
        let lasts = Duration::from_millis(number("lockable-expires-in-ms"));
        let fencing_token = number("lockable-fencing-token");
        counts
            .borrow_mut()
            .count(line, fencing_token, received, times);
        if lines.lapse && Instant::now() < times.ends {
            // Its deadline, and the end of a lease whose answer took no time at all. Headers have
            // whole milliseconds.
            let latest = received + lasts + Duration::from_millis(1);
            line.ended.set(Some((sent + waited + lasts, latest)));
            continue;
        }
        let keeps_until =
            (received + Duration::from_millis(lines.hold_ms)).max(times.first_release);
        if keeps_until > Instant::now() {
            tokio::time::sleep_until(keeps_until.into()).await;
        }
        let release = get(lines, &format!("release/{name}?lease_id={lease_id}"));
        let now = Instant::now();
        line.ended.set(Some((now, now)));
        let (_, _, body) = connection.call(&release).await?;
        if http::find(body, b"true").is_none() {
            counts.borrow_mut().lost_leases += 1;
        }
    }
    Ok(())
}

impl Counts {
    /// Counts a grant.
    fn count(&mut self, line: &Line, fencing_token: u64, received: Instant, times: &Times) {
        let ended = line.ended.take();
        let is_first = line.fencing_token.get() == 0;
        let is_early = !is_first && ended.is_none_or(|(earliest, _)| received < earliest);
        if is_early || fencing_token <= line.fencing_token.replace(fencing_token) {
            self.wrong_grants += 1;
            return;
        }
        if let Some((earliest, latest)) = ended
            && (times.counts_from..times.ends).contains(&received)
        {
            self.hand_overs.record(received - earliest);
            self.hand_overs_at_least
                .record(received.saturating_duration_since(latest));
        }
    }
}

fn get(lines: &Lines, path: &str) -> Vec<u8> {
    get_request(lines.address, &lines.token, &format!("/v1/{path}"))
}

/// A request of version 1, written out.
pub(crate) fn get_request(socket_address: SocketAddr, token: &str, path: &str) -> Vec<u8> {
    let credentials = STANDARD.encode(format!("{token}:"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {socket_address}\r\n\
         Authorization: Basic {credentials}\r\n\r\n"
    )
    .into_bytes()
}

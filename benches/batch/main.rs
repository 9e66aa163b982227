//! The engine's statements alone, for `script/bench`: batches of one size after another over one
//! connection, without queue or HTTP.
//!
//! Prints a line of JSON: locks a second, and the backend's processor time for each lock.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Parser, ValueEnum};
use lockable::db::{self, Purpose};
use lockable::id::{AccountId, NamespaceId, TokenId};
use lockable::locks::engine::{FastOutcome, statements};
use lockable::locks::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, LockKey, LockName, Mode, Release,
    ReleaseOutcome,
};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

#[derive(Parser)]
struct Cli {
    kind: Kind,
    #[arg(long)]
    database_url: String,
    #[arg(long)]
    account_id: i64,
    #[arg(long)]
    token_id: i64,
    /// The number of locks in a batch.
    #[arg(long)]
    size: usize,
    #[arg(long)]
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Every name new, by insert-if-absent.
    Acquire,
    /// Every name new, by the general statement, which observes each row first.
    AcquireLooking,
    /// Of the locks `k00000000` to `k00009999`.
    Heartbeat,
    /// Of locks that were acquired just before, which is not counted.
    Release,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let options: PgConnectOptions = cli.database_url.parse()?;
    let mut connection = db::connect(&options, Purpose::LockEngine).await?;
    let backend: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut connection)
        .await?;
    let (mut locks, mut took, mut cpu_s) = (0, Duration::ZERO, 0.0);
    let ends = Instant::now() + Duration::from_secs_f64(cli.seconds);
    while Instant::now() < ends {
        let keys = keys(&cli);
        if cli.kind == Kind::Release {
            acquire(&mut connection, &cli, keys.clone()).await?;
        }
        let (before, began) = (cpu_seconds(backend)?, Instant::now());
        let count = keys.len();
        let succeeded = match cli.kind {
            Kind::Acquire | Kind::AcquireLooking => acquire(&mut connection, &cli, keys).await?,
            Kind::Heartbeat => heartbeat(&mut connection, &cli, keys).await?,
            Kind::Release => release(&mut connection, &cli, keys).await?,
        };
        anyhow::ensure!(
            succeeded == count,
            "{succeeded} of {count} requests succeeded"
        );
        took += began.elapsed();
        cpu_s += cpu_seconds(backend)? - before;
        locks += count;
    }
    let cpu_us = cpu_s * 1e6 / locks as f64;
    println!(
        "{}",
        json!({"rate": locks as f64 / took.as_secs_f64(), "backend_us": cpu_us, "locks": locks})
    );
    Ok(())
}

/// The keys of a batch: each once, in ascending order, as the engine passes them.
fn keys(cli: &Cli) -> Vec<LockKey> {
    let name = || match cli.kind {
        Kind::Heartbeat => format!("k{:08}", rand::random::<u32>() % 10_000),
        Kind::Acquire | Kind::AcquireLooking | Kind::Release => {
            format!("{:017x}", rand::random::<u64>())
        }
    };
    let mut keys: Vec<_> = (0..cli.size)
        .map(|_| LockKey {
            namespace_id: NamespaceId(1),
            name: LockName::new(&name()).expect("a good name"),
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

async fn acquire(
    connection: &mut PgConnection,
    cli: &Cli,
    keys: Vec<LockKey>,
) -> sqlx::Result<usize> {
    let request = |key| Acquire {
        key,
        account_id: AccountId(cli.account_id),
        token_id: TokenId(cli.token_id),
        lease_id: Uuid::new_v4(),
        needs_proof: false,
        lease_ms: 60_000,
        requested_ms: None,
        holder: None,
        metadata: None,
        mode: Mode::Exclusive,
        max_hold_ms: None,
        wait_ms: 0,
        max_live_locks: i32::MAX,
        max_waiters: i32::MAX,
        max_waiters_of_lock: i32::MAX,
    };
    let requests: Vec<_> = keys.into_iter().map(request).collect();
    let requests: Vec<_> = requests.iter().collect();
    let outcomes = match cli.kind {
        Kind::AcquireLooking => statements::acquire(connection, &requests, latest_at()).await?,
        _ => statements::insert_if_absent(connection, &requests, latest_at()).await?,
    };
    Ok(outcomes
        .iter()
        .filter(|outcome| {
            matches!(
                outcome,
                Some(FastOutcome::Decided(AcquireOutcome::Granted(_)))
            )
        })
        .count())
}

async fn heartbeat(
    connection: &mut PgConnection,
    cli: &Cli,
    keys: Vec<LockKey>,
) -> sqlx::Result<usize> {
    let request = |key| Heartbeat {
        key,
        account_id: AccountId(cli.account_id),
        lease_id: None,
        lease_ms: None,
    };
    let requests: Vec<_> = keys.into_iter().map(request).collect();
    let outcomes = statements::heartbeat(
        connection,
        &requests.iter().collect::<Vec<_>>(),
        latest_at(),
    )
    .await?;
    Ok(outcomes
        .iter()
        .filter(|outcome| {
            matches!(
                outcome,
                Some(FastOutcome::Decided(HeartbeatOutcome::Renewed(_)))
            )
        })
        .count())
}

async fn release(
    connection: &mut PgConnection,
    cli: &Cli,
    keys: Vec<LockKey>,
) -> sqlx::Result<usize> {
    let request = |key| Release {
        key,
        account_id: AccountId(cli.account_id),
        lease_id: None,
    };
    let requests: Vec<_> = keys.into_iter().map(request).collect();
    let outcomes = statements::release(
        connection,
        &requests.iter().collect::<Vec<_>>(),
        latest_at(),
    )
    .await?;
    Ok(outcomes
        .iter()
        .filter(|outcome| {
            matches!(
                outcome,
                Some(FastOutcome::Decided(ReleaseOutcome::Released))
            )
        })
        .count())
}

/// The processor time of a process so far, from `schedstat`: it counts nanoseconds, where `stat`
/// counts hundredths of a second.
fn cpu_seconds(pid: i32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(text
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .parse::<f64>()?
        / 1e9)
}

/// The statements may write whenever they arrive.
fn latest_at() -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(1)
}

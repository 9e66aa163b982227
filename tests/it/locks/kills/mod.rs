//! P1, P2 and P4 under load, with PostgreSQL killed in the middle of batches, again and again.
//!
//! One crash can fall between two batches and prove little. Here dozens fall at instants that only
//! the progress of the load decides. Every `true` is recorded the moment it is received, and in the
//! end all of it is looked for in the table.

mod load;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::random_range;
use sqlx::{Connection as _, PgConnection};
use tokio::task::block_in_place;

use crate::support::prelude::*;
use load::Load;

const KILLS: usize = 30;
const CLIENTS: usize = 32;
/// How many more outcomes are `true` before the next kill, at least and at most.
const OUTCOMES_BETWEEN: std::ops::RangeInclusive<usize> = 60..=300;

/// How often PostgreSQL has begun to recover from a crash.
fn recoveries(cluster: &Cluster) -> usize {
    cluster
        .log()
        .matches("automatic recovery in progress")
        .count()
}

/// Kills one of the engines' own backends while it works, upon which the postmaster ends all others
/// and starts over.
async fn kill_a_backend(cluster: &Cluster, db: &Database) {
    let before = recoveries(cluster);
    let victim = eventually("a statement is in flight", async || {
        let working = "SELECT pid FROM pg_stat_activity
                        WHERE application_name = 'lockable locks' AND state = 'active'
                        ORDER BY random() LIMIT 1";
        // Not by the pool, which holds sessions from before the last kill and finds out slowly.
        let mut connection = PgConnection::connect_with(&db.options()).await.ok()?;
        let pid = sqlx::query_scalar::<_, i32>(working).fetch_optional(&mut connection);
        pid.await.ok().flatten()
    })
    .await;
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    eventually("PostgreSQL starts over", async || {
        (recoveries(cluster) > before).then_some(())
    })
    .await;
}

/// Everything dies at once.
fn crash(cluster: &Cluster) {
    block_in_place(|| {
        cluster.crash();
        cluster.start();
    });
}

/// The result of a run.
#[derive(Debug)]
struct Report {
    contradictions: Vec<String>,
    /// Leases that were granted, kept or not.
    leases: usize,
    /// Kills that certainly found a statement in flight.
    in_mid_statement: usize,
    found_again: usize,
    /// Transactions that wrote several of the locks that are there in the end, and the most that
    /// one wrote.
    batches: i64,
    largest_batch: i64,
    recoveries: usize,
}

/// Lets clients work while PostgreSQL is killed over and over, a change made to the database
/// before.
async fn survive(kills: usize, mutation: Option<&str>) -> Report {
    // Only a commit that waits for it writes the log to disk: one that does not is lost.
    let cluster = Arc::new(block_in_place(|| {
        Cluster::durable_with(&["wal_writer_delay=10s"])
    }));
    let db = Database::create_in(&cluster).await;
    if let Some(sql) = mutation {
        db.execute(sql).await;
    }
    let load = Load::start(&db).await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(load.clone().client(number)))
        .collect();
    let (mut in_mid_statement, mut cut_off_before) = (0, 0);
    for number in 0..kills {
        load.progress(random_range(OUTCOMES_BETWEEN)).await;
        if number % 2 == 0 {
            kill_a_backend(&cluster, &db).await;
        } else {
            crash(&cluster);
        }
        // Requests that were cut off are answered before anything new is.
        load.progress(1).await;
        let cut_off = load.cut_off.load(Ordering::Relaxed);
        in_mid_statement += usize::from(cut_off > cut_off_before);
        cut_off_before = cut_off;
    }
    load.progress(*OUTCOMES_BETWEEN.start()).await;
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    // The last outcomes have to be as durable as the first.
    crash(&cluster);
    eventually("the database answers", async || {
        sqlx::query("SELECT 1").execute(&db.pool).await.ok()
    })
    .await;
    let batches = "SELECT count(*) AS size FROM locks GROUP BY xmin::text HAVING count(*) > 1";
    Report {
        contradictions: load.contradictions(&db).await,
        leases: load.granted(),
        in_mid_statement,
        found_again: load.found_again.load(Ordering::Relaxed),
        batches: db
            .value(&format!("SELECT count(*) FROM ({batches}) b"))
            .await,
        largest_batch: db
            .value(&format!("SELECT coalesce(max(size), 0) FROM ({batches}) b"))
            .await,
        recoveries: recoveries(&cluster),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_postgresql_is_killed_nothing_that_was_answered_is_missing() {
    let report = survive(KILLS, None).await;
    let first: Vec<_> = report.contradictions.iter().take(10).collect();
    assert!(
        first.is_empty(),
        "{} contradictions: {first:#?}",
        report.contradictions.len()
    );
    // The run was what it claims to be: each kill was one, many fell into statements, some between
    // a commit and its result, and statements were about many locks.
    assert_eq!(report.recoveries, KILLS + 1, "{report:?}");
    assert!(report.in_mid_statement >= KILLS / 4, "{report:?}");
    assert!(report.found_again > 0, "{report:?}");
    // Rows that were written again since are missing from their batches: on a machine with other
    // things to do, 8 were left of the largest.
    assert!(
        report.batches > 50 && report.largest_batch >= 5,
        "{report:?}"
    );
    assert!(
        report.leases > KILLS * OUTCOMES_BETWEEN.start() / 3,
        "{report:?}"
    );
}

/// The same with commits that do not wait for the disk, which the test must notice.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_do_not_wait_for_the_disk_are_caught() {
    let hasty = "CREATE FUNCTION be_hasty() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN PERFORM set_config('synchronous_commit', 'off', true); RETURN NULL; END $$;
                 CREATE TRIGGER be_hasty BEFORE INSERT ON locks EXECUTE FUNCTION be_hasty()";
    let report = survive(4, Some(hasty)).await;
    assert!(
        report
            .contradictions
            .iter()
            .any(|line| line.starts_with("missing: ")),
        "{report:?}"
    );
}

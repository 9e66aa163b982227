//! P1, P2 and P4 under load, with PostgreSQL killed in the middle of batches, again and again.
//!
//! One crash can fall between two batches and prove little. Here dozens fall at instants that only
//! the progress of the load decides; every `true` is written down the moment it is heard, and in
//! the end all of it is looked for in the table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use lockable::locks::{
    Acquire, AcquireOutcome, EngineSettings, HeartbeatOutcome, Lease, ReleaseOutcome,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::random_range;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::task::block_in_place;
use uuid::Uuid;

use super::{ALICE, Node, acquire, heartbeat, release, unknown};
use crate::support::history::{Answer, History, Operation, Rules};
use crate::support::prelude::*;

const KILLS: usize = 30;
const CLIENTS: usize = 32;
const CONTENDED: usize = 4;
/// No lease lapses while the test runs: whatever is gone was lost.
const LEASE: Duration = Duration::from_secs(600);
/// How many more answers are `true` before the next kill, at least and at most.
const ANSWERS_BETWEEN: std::ops::RangeInclusive<usize> = 60..=300;
/// How often a client asks again for what it was not told.
const TRIES: usize = 20;

/// What a client was told of one lease.
#[derive(Debug)]
struct Told {
    name: String,
    fencing_token: i64,
    /// The latest end that it was told.
    expires_at: DateTime<Utc>,
    needs_proof: bool,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kept,
    /// A release was begun, and its outcome is not known, or not yet.
    InDoubt,
    Released,
}

/// A row of the table, as it is when all is over.
#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    lease_id: Uuid,
    fencing_token: i64,
    expires_at: DateTime<Utc>,
    end_reason: i16,
    live: bool,
}

/// More waits than a batch takes, so that the lane is on a thread of its own most of the time, and
/// goes and comes back.
const CROWDED: EngineSettings = EngineSettings {
    lanes: 1,
    largest_batch: 8,
    queue_capacity: 8192,
    deadline: Duration::from_secs(5),
};

/// Two nodes, one of them crowded, and all that their clients were told.
struct Load {
    nodes: [Node; 2],
    history: History,
    told: Mutex<BTreeMap<Uuid, Told>>,
    /// Answers that were `true`.
    answers: watch::Sender<usize>,
    /// Statements that were certainly under way when the database died: only a release without a
    /// lease id, sent and not answered, is answered as unknown before its deadline; everything else
    /// is asked again.
    cut_off: AtomicUsize,
    /// Grants that were committed, not answered, and found by asking again.
    found_again: AtomicUsize,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Load {
    async fn start(db: &Database) -> Arc<Load> {
        Arc::new(Load {
            nodes: [
                Node::start(db.options()).await,
                Node::start_with(db.options(), CROWDED).await,
            ],
            history: History::new(),
            told: Mutex::default(),
            answers: watch::Sender::new(0),
            cut_off: AtomicUsize::new(0),
            found_again: AtomicUsize::new(0),
            wrong: Mutex::default(),
            over: AtomicBool::new(false),
        })
    }

    /// Waits until this many more answers were `true`.
    async fn progress(&self, more: usize) {
        let mut answers = self.answers.subscribe();
        let target = *answers.borrow_and_update() + more;
        let reached = answers.wait_for(|count| *count >= target);
        let reached = tokio::time::timeout(crate::support::wait::DEADLINE, reached).await;
        reached.expect("the nodes go on answering").unwrap();
    }

    async fn client(self: Arc<Self>, number: usize) {
        for round in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            // Several at once, so that batches are larger than there are clients.
            let [with_id, plain] = ["id", "plain"].map(|kind| format!("{kind}-{number}-{round}"));
            let contended = format!("contended-{}", random_range(0..CONTENDED));
            tokio::join!(
                self.take_new(&with_id, true, round % 3 == 0),
                self.take_new(&plain, false, round % 2 == 0),
                self.take_contended(&contended)
            );
        }
    }

    /// Takes a lock that nobody else asks for, renews it, and gives it back or keeps it.
    async fn take_new(&self, name: &str, needs_proof: bool, give_back: bool) {
        let lease_id = Uuid::new_v4();
        match self
            .ask(Operation::Acquire, name, lease_id, needs_proof)
            .await
        {
            Answer::Held { .. } => {}
            Answer::Unknown => return,
            other => {
                return self.complain(format!(
                    "{name}: nobody else asks for it, and it was answered {other:?}"
                ));
            }
        }
        if random_range(0..3) == 0 {
            self.ask(Operation::Heartbeat, name, lease_id, needs_proof)
                .await;
        }
        if give_back {
            let began = Instant::now();
            let answer = self
                .ask(Operation::Release, name, lease_id, needs_proof)
                .await;
            if answer == Answer::Unknown
                && !needs_proof
                && began.elapsed() < EngineSettings::default().deadline
            {
                self.cut_off.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Takes a lock that many ask for, and gives it back; asks for as long as it takes to know.
    async fn take_contended(&self, name: &str) {
        let lease_id = Uuid::new_v4();
        let (answer, doubted) = self
            .ask_until_known(Operation::Acquire, name, lease_id)
            .await;
        if matches!(answer, Answer::Held { .. }) {
            if random_range(0..3) == 0 {
                self.ask(Operation::Heartbeat, name, lease_id, true).await;
            }
        } else if !doubted {
            return;
        }
        self.ask_until_known(Operation::Release, name, lease_id)
            .await;
    }

    /// Returns the answer, and whether there was none at first.
    async fn ask_until_known(
        &self,
        operation: Operation,
        name: &str,
        lease_id: Uuid,
    ) -> (Answer, bool) {
        for tried in 0..TRIES {
            let answer = self.ask(operation, name, lease_id, true).await;
            if answer != Answer::Unknown {
                return (answer, tried > 0);
            }
        }
        self.complain(format!("{name}: {operation:?} was unknown {TRIES} times"));
        (Answer::Unknown, true)
    }

    /// Asks a node, and writes down what it answered.
    async fn ask(
        &self,
        operation: Operation,
        name: &str,
        lease_id: Uuid,
        needs_proof: bool,
    ) -> Answer {
        let engine = &self.nodes[random_range(0..self.nodes.len())].engine;
        let proof = needs_proof.then_some(lease_id);
        let asked = async {
            match operation {
                Operation::Acquire => {
                    let lease_ms = i32::try_from(LEASE.as_millis()).unwrap();
                    let question = Acquire {
                        needs_proof,
                        ..acquire(ALICE, name, lease_id, lease_ms)
                    };
                    match engine.acquire(question).await {
                        Ok(AcquireOutcome::Granted(lease)) => {
                            // A first grant ends its length after it was made; one that ends later
                            // was renewed by a repetition, and a lock of one client's is asked for
                            // once: by the engine, then.
                            let length = lease.expires_at - lease.acquired_at;
                            let repeated = length
                                > TimeDelta::from_std(LEASE).unwrap() + TimeDelta::milliseconds(10);
                            if repeated && !name.starts_with("contended") {
                                self.found_again.fetch_add(1, Ordering::Relaxed);
                            }
                            self.held(name, lease_id, needs_proof, &lease)
                        }
                        Ok(AcquireOutcome::Held) => Answer::Refused,
                        Ok(AcquireOutcome::LeaseEnded) => Answer::Lost,
                        Err(error) => unknown(error),
                    }
                }
                Operation::Heartbeat => match engine.heartbeat(heartbeat(ALICE, name, proof)).await
                {
                    Ok(HeartbeatOutcome::Renewed(lease)) => {
                        self.held(name, lease_id, needs_proof, &lease)
                    }
                    Ok(HeartbeatOutcome::Lost(_)) => Answer::Lost,
                    Err(error) => unknown(error),
                },
                Operation::Release => {
                    let told = self.ends(lease_id, End::InDoubt);
                    match engine.release(release(ALICE, name, proof)).await {
                        Ok(ReleaseOutcome::Released) => {
                            self.ends(lease_id, End::Released);
                            self.answers.send_modify(|count| *count += 1);
                            Answer::Released
                        }
                        Ok(ReleaseOutcome::Lost(why)) => {
                            if told {
                                self.complain(format!(
                                    "{name}: lease {lease_id} was held, and its release lost: {why:?}"
                                ));
                            }
                            Answer::Lost
                        }
                        Err(error) => unknown(error),
                    }
                }
            }
        };
        self.history.record(name, lease_id, operation, asked).await
    }

    fn held(&self, name: &str, lease_id: Uuid, needs_proof: bool, lease: &Lease) -> Answer {
        let Lease {
            fencing_token,
            expires_at,
            ..
        } = *lease;
        if lease.lease_id != lease_id {
            self.complain(format!(
                "{name}: lease {lease_id} was asked for, {} answered",
                lease.lease_id
            ));
        }
        let told = Told {
            name: name.to_owned(),
            fencing_token,
            expires_at,
            needs_proof,
            end: End::Kept,
        };
        self.told.lock().unwrap().insert(lease_id, told);
        self.answers.send_modify(|count| *count += 1);
        Answer::Held { fencing_token }
    }

    /// Notes how far the end of a lease is. Returns whether it was told that it is held.
    fn ends(&self, lease_id: Uuid, end: End) -> bool {
        self.told
            .lock()
            .unwrap()
            .get_mut(&lease_id)
            .map(|told| told.end = end)
            .is_some()
    }

    fn complain(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// Looks for all that was answered in the database as it is now, and for contradictions in the
    /// answers themselves.
    async fn contradictions(&self, db: &Database) -> Vec<String> {
        let mut wrong = std::mem::take(&mut *self.wrong.lock().unwrap());
        // No lease lapses, so that no outage lengthens one.
        wrong.extend(self.history.violations(Rules {
            lease: LEASE,
            outage: Duration::ZERO,
        }));
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT l.name, l.lease_id, l.fencing_token, l.expires_at, l.end_reason, lease_is_live(l.expires_at, l.end_reason,
                    l.lease_ms, c.recent_until, c.open_start, c.outage_start, c.outage_end, c.grace_ms) AS live
               FROM locks l CROSS JOIN lease_clock c",
        )
        .fetch_all(&db.pool)
        .await
        .unwrap();
        let rows: HashMap<&str, &Row> = rows.iter().map(|row| (row.name.as_str(), row)).collect();
        let remembered = sqlx::query_scalar("SELECT lease_id FROM lease_ends WHERE reason = 1");
        let remembered: HashSet<Uuid> = remembered
            .fetch_all(&db.pool)
            .await
            .unwrap()
            .into_iter()
            .collect();
        let mut tokens = HashMap::new();
        for (lease_id, told) in &*self.told.lock().unwrap() {
            let row = rows
                .get(told.name.as_str())
                .filter(|row| row.lease_id == *lease_id);
            let same = row.filter(|row| row.fencing_token == told.fencing_token);
            let taken_again = rows
                .get(told.name.as_str())
                .is_some_and(|row| row.fencing_token > told.fencing_token);
            let right = match told.end {
                End::Kept => same.is_some_and(|row| row.live && row.expires_at >= told.expires_at),
                End::InDoubt => same.is_some(),
                End::Released => {
                    (same.is_some_and(|row| row.end_reason == 1 && !row.live)
                        || row.is_none() && taken_again)
                        && (!told.needs_proof || remembered.contains(lease_id))
                }
            };
            if !right {
                wrong.push(format!("missing: lease {lease_id}, {told:?}"));
            }
            if let Some(other) = tokens.insert(told.fencing_token, lease_id) {
                wrong.push(format!(
                    "leases {other} and {lease_id} have the fencing token {}",
                    told.fencing_token
                ));
            }
        }
        wrong
    }
}

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
    let victim = eventually("a statement is under way", async || {
        let working = "SELECT pid FROM pg_stat_activity WHERE application_name = 'lockable locks' AND state = 'active'
                        ORDER BY random() LIMIT 1";
        // Not by the pool, which is full of sessions of before the last kill and takes its time to
        // find out.
        let mut connection = PgConnection::connect_with(&db.options()).await.ok()?;
        sqlx::query_scalar::<_, i32>(working).fetch_optional(&mut connection).await.ok().flatten()
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

/// What came of it.
#[derive(Debug)]
struct Report {
    contradictions: Vec<String>,
    /// Leases that were told to be held, kept or not.
    leases: usize,
    /// Kills that certainly found a statement under way.
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
    // Nothing writes the log but those who wait for it: what is not waited for is lost.
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
        load.progress(random_range(ANSWERS_BETWEEN)).await;
        if number % 2 == 0 {
            kill_a_backend(&cluster, &db).await;
        } else {
            crash(&cluster);
        }
        // Those that were cut off are told so before anything new is answered.
        load.progress(1).await;
        let cut_off = load.cut_off.load(Ordering::Relaxed);
        in_mid_statement += usize::from(cut_off > cut_off_before);
        cut_off_before = cut_off;
    }
    load.progress(*ANSWERS_BETWEEN.start()).await;
    load.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    // The last answers have to be as durable as the first.
    crash(&cluster);
    eventually("the database answers", async || {
        sqlx::query("SELECT 1").execute(&db.pool).await.ok()
    })
    .await;
    let leases = load.told.lock().unwrap().len();
    let batches = "SELECT count(*) AS size FROM locks GROUP BY xmin::text HAVING count(*) > 1";
    Report {
        contradictions: load.contradictions(&db).await,
        leases,
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
    // And it was what it says it is: each kill was one, many fell into statements, some between a
    // commit and its answer, and statements were about many locks.
    assert_eq!(report.recoveries, KILLS + 1, "{report:?}");
    assert!(report.in_mid_statement >= KILLS / 4, "{report:?}");
    assert!(report.found_again > 0, "{report:?}");
    assert!(
        report.batches > 50 && report.largest_batch >= 10,
        "{report:?}"
    );
    assert!(
        report.leases > KILLS * ANSWERS_BETWEEN.start() / 3,
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

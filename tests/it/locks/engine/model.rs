//! The engine against a model that is simple enough to be believed. Any sequence of operations of
//! two accounts on two locks, sent one by one or in bursts that share batches, has the outcomes
//! that the model has when it applies them one after the other.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use lockable::locks::{
    AcquireOutcome, Engine, EngineError, EngineSettings, HeartbeatOutcome, Lost, ReleaseOutcome,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::node::{Node, acquire, heartbeat, release};
use crate::support::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Acquire {
        account: i64,
        lock: usize,
        id: Option<u128>,
    },
    Heartbeat {
        account: i64,
        lock: usize,
        id: Option<u128>,
    },
    Release {
        account: i64,
        lock: usize,
        id: Option<u128>,
    },
    /// Time passes until the lease of this lock has lapsed.
    Lapse { lock: usize },
}

impl Op {
    /// The account and the lock of a request; `None` for a lapse.
    fn account_and_lock(&self) -> Option<(i64, usize)> {
        match *self {
            Self::Acquire { account, lock, .. }
            | Self::Heartbeat { account, lock, .. }
            | Self::Release { account, lock, .. } => Some((account, lock)),
            Self::Lapse { .. } => None,
        }
    }
}

const LOCKS: [&str; 2] = ["a", "b"];

/// Locks share lease ids: an id serves one lease of each.
fn op() -> impl Strategy<Value = Op> {
    let account = 1..=2i64;
    let id = prop_oneof![2 => Just(None), 3 => (1..=3u128).prop_map(Some)];
    let target = (account, 0..2usize, id);
    prop_oneof![
        4 => target.clone().prop_map(|(account, lock, id)| Op::Acquire { account, lock, id }),
        2 => target.clone().prop_map(|(account, lock, id)| Op::Heartbeat { account, lock, id }),
        3 => target.prop_map(|(account, lock, id)| Op::Release { account, lock, id }),
        1 => (0..2usize).prop_map(|lock| Op::Lapse { lock }),
    ]
}

/// The outcome of an operation, without the values that only the database knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The fencing token's place in the order of grants of this lock.
    Granted {
        grant: usize,
    },
    Held,
    LeaseEnded,
    Renewed {
        grant: usize,
    },
    Released,
    Lost(Lost),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Live,
    Lapsed,
    Released,
}

#[derive(Clone, Debug)]
struct Row {
    account: i64,
    /// `None` for a lease without an id of the client's own.
    id: Option<u128>,
    end: End,
    grant: usize,
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<usize, Row>,
    /// How leases with ids have ended, by account, id and lock.
    ends: BTreeMap<(i64, u128, usize), Lost>,
}

impl Model {
    fn apply(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Acquire { account, lock, id } => self.acquire(account, lock, id),
            Op::Heartbeat { account, lock, id } => match self.find(account, lock, id) {
                Ok(row) => Outcome::Renewed { grant: row.grant },
                Err(lost) => Outcome::Lost(lost),
            },
            Op::Release { account, lock, id } => match self.find(account, lock, id) {
                Ok(row) => {
                    row.end = End::Released;
                    // Remembered if the lease has an id of the client's own.
                    if let Some(id) = row.id {
                        self.ends.insert((account, id, lock), Lost::Released);
                    }
                    Outcome::Released
                }
                Err(Lost::Released) if id.is_some() => Outcome::Released,
                Err(Lost::Unknown) if let Some(id) = id => {
                    self.ends.insert((account, id, lock), Lost::NeverGranted);
                    Outcome::Lost(Lost::NeverGranted)
                }
                Err(lost) => Outcome::Lost(lost),
            },
            Op::Lapse { lock } => {
                if let Some(row) = self.rows.get_mut(&lock)
                    && row.end == End::Live
                {
                    row.end = End::Lapsed;
                }
                Outcome::Nothing
            }
        }
    }

    fn acquire(&mut self, account: i64, lock: usize, id: Option<u128>) -> Outcome {
        if let Some(id) = id
            && self.ends.contains_key(&(account, id, lock))
        {
            return Outcome::LeaseEnded;
        }
        if let Some(row) = self.rows.get(&lock) {
            if row.account == account && row.id.is_some() && row.id == id {
                return if row.end == End::Live {
                    Outcome::Granted { grant: row.grant }
                } else {
                    Outcome::LeaseEnded
                };
            }
            if row.end == End::Live {
                return Outcome::Held;
            }
            if let (End::Lapsed, Some(id)) = (row.end, row.id) {
                self.ends.insert((row.account, id, lock), Lost::Superseded);
            }
        }
        let grant = self.rows.get(&lock).map_or(0, |row| row.grant + 1);
        self.rows.insert(
            lock,
            Row {
                account,
                id,
                end: End::Live,
                grant,
            },
        );
        Outcome::Granted { grant }
    }

    /// The live lease that a heartbeat or release speaks of, or why there is none.
    fn find(&mut self, account: i64, lock: usize, id: Option<u128>) -> Result<&mut Row, Lost> {
        let remembered = id.and_then(|id| self.ends.get(&(account, id, lock)).copied());
        match self.rows.get_mut(&lock) {
            Some(row) if row.account == account && (id.is_none() || row.id == id) => {
                match row.end {
                    _ if id.is_none() && row.id.is_some() => Err(if row.end == End::Live {
                        Lost::Unproved
                    } else {
                        Lost::Unknown
                    }),
                    End::Live => Ok(row),
                    End::Lapsed => Err(Lost::Expired),
                    End::Released => Err(Lost::Released),
                }
            }
            _ => Err(remembered.unwrap_or(Lost::Unknown)),
        }
    }
}

/// Performs an operation on the engine. Returns its outcome, and the fencing token to compare
/// afterwards.
async fn perform(
    engine: &Engine,
    pool: &PgPool,
    op: &Op,
) -> Result<(Outcome, Option<i64>), EngineError> {
    Ok(match *op {
        Op::Acquire { account, lock, id } => {
            match engine
                .acquire(acquire(account, LOCKS[lock], id.map(Uuid::from_u128)))
                .await?
            {
                AcquireOutcome::Granted(lease) => {
                    assert_eq!((lease.lease_ms, lease.expires_in_ms), (60_000, 60_000));
                    (Outcome::Granted { grant: 0 }, Some(lease.fencing_token))
                }
                AcquireOutcome::Held => (Outcome::Held, None),
                AcquireOutcome::LimitConflict { .. } => unreachable!("all are exclusive"),
                AcquireOutcome::LeaseEnded => (Outcome::LeaseEnded, None),
            }
        }
        Op::Heartbeat { account, lock, id } => {
            match engine
                .heartbeat(heartbeat(account, LOCKS[lock], id.map(Uuid::from_u128)))
                .await?
            {
                HeartbeatOutcome::Renewed(lease) => {
                    (Outcome::Renewed { grant: 0 }, Some(lease.fencing_token))
                }
                HeartbeatOutcome::Lost(lost) => (Outcome::Lost(lost), None),
            }
        }
        Op::Release { account, lock, id } => {
            match engine
                .release(release(account, LOCKS[lock], id.map(Uuid::from_u128)))
                .await?
            {
                ReleaseOutcome::Released => (Outcome::Released, None),
                ReleaseOutcome::Lost(lost) => (Outcome::Lost(lost), None),
            }
        }
        Op::Lapse { lock } => {
            sqlx::query("UPDATE locks SET expires_at = '2000-01-01' WHERE name = $1")
                .bind(LOCKS[lock])
                .execute(pool)
                .await
                .unwrap();
            (Outcome::Nothing, None)
        }
    })
}

/// Compares the engine's outcomes with the model's, which counts grants where the engine has
/// fencing tokens.
fn check(
    ops: &[Op],
    real: &[(Outcome, Option<i64>)],
    expected: &[Outcome],
) -> Result<(), TestCaseError> {
    let mut tokens: BTreeMap<(usize, usize), i64> = BTreeMap::new();
    for (at, ((outcome, token), expected)) in real.iter().zip(expected).enumerate() {
        let (Op::Acquire { lock, .. }
        | Op::Heartbeat { lock, .. }
        | Op::Release { lock, .. }
        | Op::Lapse { lock }) = ops[at];
        match (*expected, *outcome) {
            (Outcome::Granted { grant }, Outcome::Granted { .. })
            | (Outcome::Renewed { grant }, Outcome::Renewed { .. }) => {
                let token = token.unwrap();
                let known = *tokens.entry((lock, grant)).or_insert(token);
                prop_assert_eq!(known, token, "a grant keeps its fencing token: op {}", at);
                if grant > 0
                    && let Some(before) = tokens.get(&(lock, grant - 1))
                {
                    prop_assert!(*before < token, "fencing tokens increase: op {}", at);
                }
            }
            (expected, outcome) => {
                prop_assert_eq!(outcome, expected, "op {}: {:?} of {:?}", at, &ops[at], ops);
            }
        }
    }
    Ok(())
}

/// Divides operations into bursts, each of which is in flight at once, in order. A lapse is a burst
/// of its own. No burst has requests of two accounts for one lock: those are served by turns,
/// whatever their order.
fn bursts(ops: &[Op], sizes: &[usize]) -> Vec<Vec<Op>> {
    let mut bursts: Vec<Vec<Op>> = vec![];
    let mut sizes = sizes.iter().cycle();
    let mut left = 0;
    for op in ops {
        let clashes = |other: &Op| match (op.account_and_lock(), other.account_and_lock()) {
            (Some((account, lock)), Some((other_account, other_lock))) => {
                lock == other_lock && account != other_account
            }
            _ => true,
        };
        if left == 0 || bursts.last().is_some_and(|burst| burst.iter().any(clashes)) {
            bursts.push(vec![]);
            left = *sizes.next().unwrap_or(&1);
        }
        bursts.last_mut().unwrap().push(op.clone());
        left -= 1;
    }
    bursts
}

fn run_model(settings: EngineSettings, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (db, node) = runtime.block_on(async {
        let db = Database::create().await;
        let node = Node::start_with(db.options(), settings).await;
        (db, node)
    });
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (
        proptest::collection::vec(op(), 1..40),
        proptest::collection::vec(1..8usize, 1..5),
    );
    TestRunner::new(config)
        .run(&strategy, |(ops, sizes)| {
            let real = runtime.block_on(async {
                db.execute("TRUNCATE locks, lease_ends").await;
                let mut outcomes = vec![];
                for burst in bursts(&ops, &sizes) {
                    outcomes.extend(
                        join_all(burst.iter().map(|op| perform(&node.engine, &node.pool, op)))
                            .await,
                    );
                }
                outcomes.into_iter().collect::<Result<Vec<_>, _>>()
            });
            let mut model = Model::default();
            let expected: Vec<Outcome> = ops.iter().map(|op| model.apply(op)).collect();
            check(
                &ops,
                &real.map_err(|error| TestCaseError::fail(error.to_string()))?,
                &expected,
            )
        })
        .unwrap();
}

#[test]
fn any_interleaving_has_the_outcomes_of_one_after_the_other() {
    run_model(EngineSettings::default(), 120);
}

#[test]
fn several_lanes_and_tiny_batches_change_no_outcome() {
    run_model(
        EngineSettings {
            lanes: 3,
            largest_batch: 2,
            ..EngineSettings::default()
        },
        60,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_id_serves_one_lease_of_each_lock() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let id = Some(Uuid::new_v4());
    for name in ["a", "b"] {
        assert!(matches!(
            node.engine.acquire(acquire(1, name, id)).await,
            Ok(AcquireOutcome::Granted(_))
        ));
    }
    assert_eq!(
        node.engine.release(release(1, "a", id)).await,
        Ok(ReleaseOutcome::Released)
    );
    assert_eq!(
        node.engine.acquire(acquire(1, "a", id)).await,
        Ok(AcquireOutcome::LeaseEnded)
    );
    assert!(matches!(
        node.engine.heartbeat(heartbeat(1, "b", id)).await,
        Ok(HeartbeatOutcome::Renewed(_))
    ));
    // Another account's id of the same value is another id.
    assert!(matches!(
        node.engine.acquire(acquire(2, "a", id)).await,
        Ok(AcquireOutcome::Granted(_))
    ));
    assert_eq!(
        node.engine.release(release(1, "a", id)).await,
        Ok(ReleaseOutcome::Released),
        "repeated after another account took the lock"
    );
}

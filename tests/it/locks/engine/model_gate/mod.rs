//! The engine against a model of waiting, permits and shared leases that is simple enough to be
//! believed: one request is decided after the other, and whatever becomes free is handed over at
//! once, in the order of tickets.

mod driver;
mod model;

use lockable::locks::{EngineSettings, Mode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::support::node::Node;
use crate::support::prelude::*;
use driver::Driver;

const LOCKS: [&str; 2] = ["a", "b"];
/// Shorter than the leases.
const MAX_HOLD_MS: i32 = 30_000;

/// How long an acquire waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    No,
    /// Its time is up before anything else happens.
    Short,
    Long,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Acquire {
        account: i64,
        lock: usize,
        /// `None`: plain.
        id: Option<u128>,
        mode: Mode,
        wait: Wait,
        has_hold_limit: bool,
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
    /// Ends all leases of a lock.
    Break { lock: usize },
    /// Time passes until all leases of a lock have lapsed, and the engine looks at it.
    Lapse { lock: usize },
    /// The client of one of the requests that wait goes away.
    HangUp { which: usize },
}

impl Op {
    fn lock(&self) -> Option<usize> {
        match *self {
            Op::Acquire { lock, .. }
            | Op::Heartbeat { lock, .. }
            | Op::Release { lock, .. }
            | Op::Break { lock }
            | Op::Lapse { lock } => Some(lock),
            Op::HangUp { .. } => None,
        }
    }

    /// True if it may be in flight at the same time as others.
    fn may_share_a_burst(&self) -> bool {
        match self {
            Op::Acquire { wait, .. } => *wait != Wait::Short,
            Op::Heartbeat { .. } | Op::Release { .. } => true,
            // A break may find a claim that its waiter does not know of yet.
            Op::Break { .. } | Op::Lapse { .. } | Op::HangUp { .. } => false,
        }
    }

    /// The account and lease id that it is about.
    fn owner(&self) -> Option<(i64, Option<u128>)> {
        match *self {
            Op::Acquire { account, id, .. }
            | Op::Heartbeat { account, id, .. }
            | Op::Release { account, id, .. } => Some((account, id)),
            _ => None,
        }
    }
}

/// The outcome of an operation, or what became of a request that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Granted {
        token: i64,
        slot: Option<i32>,
    },
    Held,
    Conflict,
    Ended,
    Waits,
    Renewed {
        token: i64,
    },
    Released,
    Lost,
    Broken {
        leases: usize,
    },
    /// Another request has its place.
    Replaced,
    Done,
}

fn op() -> impl Strategy<Value = Op> {
    let id = prop_oneof![1 => Just(None), 4 => (1..=4u128).prop_map(Some)];
    let mode = prop_oneof![
        5 => Just(Mode::Exclusive),
        3 => Just(Mode::Shared),
        3 => Just(Mode::Semaphore { limit: 2 }),
        1 => Just(Mode::Semaphore { limit: 3 }),
    ];
    let wait = prop_oneof![4 => Just(Wait::No), 1 => Just(Wait::Short), 5 => Just(Wait::Long)];
    // Most of the time, all want the same lock.
    let lock = || prop_oneof![3 => Just(0_usize), 1 => Just(1)];
    let target = (1..=2i64, lock(), id);
    let acquire = (target.clone(), mode, wait, prop::bool::weighted(0.2)).prop_map(
        |((account, lock, id), mode, wait, has_hold_limit)| Op::Acquire {
            account,
            lock,
            id,
            // Without an id, a shared lease or permit could not be renewed or released.
            mode: id.map_or(Mode::Exclusive, |_| mode),
            wait,
            has_hold_limit,
        },
    );
    prop_oneof![
        8 => acquire,
        2 => target.clone().prop_map(|(account, lock, id)| Op::Heartbeat { account, lock, id }),
        6 => target.prop_map(|(account, lock, id)| Op::Release { account, lock, id }),
        1 => lock().prop_map(|lock| Op::Break { lock }),
        1 => lock().prop_map(|lock| Op::Lapse { lock }),
        1 => (0..4usize).prop_map(|which| Op::HangUp { which }),
    ]
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
        max_shrink_iters: 200,
        ..Config::default()
    };
    let strategy = (
        proptest::collection::vec(op(), 1..40),
        proptest::collection::vec(1..4usize, 1..5),
    );
    TestRunner::new(config)
        .run(&strategy, |(ops, sizes)| {
            runtime
                .block_on(Driver::run(&db, &node.engine, &ops, &sizes))
                .map_err(TestCaseError::fail)
        })
        .unwrap();
}

#[test]
fn any_interleaving_of_waiters_and_permits_has_the_outcomes_of_one_after_the_other() {
    run_model(EngineSettings::default(), 30);
}

#[test]
fn several_lanes_and_tiny_batches_change_nothing_for_waiters_and_permits() {
    let settings = EngineSettings {
        lanes: 3,
        largest_batch: 2,
        ..EngineSettings::default()
    };
    run_model(settings, 15);
}

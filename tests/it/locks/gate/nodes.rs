//! The races of whole nodes: two engines on one database, the first behind a network that fails.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use lockable::locks::{Acquire, AcquireOutcome, EngineError, Lease, ReleaseOutcome};
use sqlx::PgConnection;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::kit::{Ask, Mutant, Session, Text, add_tokens, install, unlock};
use crate::support::node::{ALICE, BOB, Node, acquire, release};
use crate::support::prelude::*;
use crate::support::proxy::Flow;

pub(super) type Waiting = JoinHandle<Result<AcquireOutcome, EngineError>>;

/// Longer than anything takes that is not a fault.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Nodes {
    pub(super) db: Database,
    pub(super) network: Proxy,
    pub(super) first: Arc<Node>,
    pub(super) second: Arc<Node>,
}

impl Nodes {
    pub(super) async fn start(mutant: Mutant) -> Nodes {
        let db = Database::create().await;
        add_tokens(&db).await;
        install(&db, mutant).await;
        let network = Proxy::to(&db).await;
        network.only("lockable locks");
        let first = Arc::new(Node::start(network.options(&db)).await);
        let second = Arc::new(Node::start(db.options()).await);
        db.execute(
            "UPDATE service_clock SET last_ok_at = clock_timestamp(), outage_start = 'epoch',
                                      outage_end = 'epoch'",
        )
        .await;
        Nodes {
            db,
            network,
            first,
            second,
        }
    }

    /// Starts to wait, and returns once it stands in the line, with `others` in front.
    pub(super) async fn wait(&self, node: &Arc<Node>, request: Acquire, others: i64) -> Waiting {
        let engine = node.engine.clone();
        let task = tokio::spawn(async move { engine.acquire(request).await });
        self.until(&format!(
            "SELECT count(*) = {others} + 1 FROM lock_tickets
              WHERE claim_token IS NULL AND NOT is_detached"
        ))
        .await;
        task
    }

    pub(super) async fn until(&self, query: &str) {
        eventually(query, async || {
            self.db.value::<bool>(query).await.then_some(())
        })
        .await;
    }

    /// Releases a lease of Alice's as a node would whose notices are all lost. Returns the fencing
    /// token of the claim.
    async fn release_unheard(&self, id: Uuid) -> i64 {
        let mut session = Session::open(&self.db, 99, &[]).await;
        let said = session.ask(&Ask::of("release", id)).await;
        assert_eq!(said.outcome(), "done");
        self.db.value("SELECT fencing_token FROM locks").await
    }

    /// Keeps the lock's row locked; gets it as the first that waits for it.
    async fn locker(&self) -> PgConnection {
        super::kit::locker_of(&self.db, "l").await
    }

    /// Waits until a request of the first node waits for the row; then lets it be executed, and its
    /// result be lost.
    async fn lose_the_result(&self, locker: PgConnection, executed: &str) {
        self.until(
            "SELECT count(*) > 0 FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND query LIKE '/* locks.gate */%'",
        )
        .await;
        self.network.answers(Flow::Cut);
        unlock(locker).await;
        self.until(executed).await;
        self.network.mend();
    }
}

pub(super) fn waiting(account: i64, id: Uuid) -> Acquire {
    Acquire {
        wait_ms: 60_000,
        ..acquire(account, "l", Some(id))
    }
}

/// The lease of a waiter, if it was granted in time.
pub(super) async fn lease_of(waiter: Waiting) -> Option<Lease> {
    match tokio::time::timeout(PATIENCE, waiter).await {
        Ok(Ok(Ok(AcquireOutcome::Granted(lease)))) => Some(lease),
        _ => None,
    }
}

async fn assert_needed(kept: impl AsyncFn(Nodes) -> bool, mutants: &[Mutant]) {
    assert!(kept(Nodes::start(&[]).await).await, "without a mutation");
    for mutant in mutants {
        let nodes = Nodes::start(mutant).await;
        assert!(!kept(nodes).await, "not caught: {mutant:?}");
    }
}

/// The claim is confirmed in time although no notice arrived: the look finds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_notice_is_lost_and_that_lapses_is_caught() {
    let kept = async |nodes: Nodes| {
        let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
        nodes.second.grant("l", holder, 60_000).await;
        let waiter = nodes.wait(&nodes.first, waiting(BOB, id), 0).await;
        let token = nodes.release_unheard(holder).await;
        lease_of(waiter).await.map(|lease| lease.fencing_token) == Some(token)
    };
    let unmarked: Mutant = &[(
        Text::Function("lock_gate"),
        "UPDATE lock_tickets q SET claim_token = g.new_token",
        "UPDATE lock_tickets q SET claim_token = NULL",
    )];
    assert_needed(kept, &[unmarked]).await;
}

/// The request to join was executed, and its result lost: it keeps that place.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_place_was_not_answered_keeps_it() {
    let nodes = Nodes::start(&[]).await;
    let (holder, id, behind) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    nodes.second.grant("l", holder, 60_000).await;
    let locker = nodes.locker().await;
    let engine = nodes.first.engine.clone();
    let request = waiting(BOB, id);
    let waiter = tokio::spawn(async move { engine.acquire(request).await });
    let joined = "SELECT count(*) = 1 FROM lock_tickets";
    nodes.lose_the_result(locker, joined).await;
    let next = nodes.wait(&nodes.second, waiting(ALICE, behind), 1).await;
    nodes.second.release("l", holder).await.unwrap();
    assert_eq!(lease_of(waiter).await.map(|lease| lease.lease_id), Some(id));
    assert!(!next.is_finished());
}

/// The confirmation was executed, and its result lost: it is one grant.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirmation_whose_result_is_lost_is_one_grant() {
    let nodes = Nodes::start(&[]).await;
    let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
    nodes.second.grant("l", holder, 60_000).await;
    let waiter = nodes.wait(&nodes.first, waiting(BOB, id), 0).await;
    let mut releasing = Session::open(&nodes.db, 99, &[]).await;
    releasing.begin().await;
    releasing.ask(&Ask::of("release", holder)).await;
    // Behind the release, and before the confirmation.
    let (locker, ()) = tokio::join!(nodes.locker(), async {
        super::kit::until_waiting(&nodes.db, 1).await;
        releasing.commit().await;
    });
    let token: i64 = nodes.db.value("SELECT fencing_token FROM locks").await;
    let confirmed = "SELECT claim_token IS NULL FROM locks";
    nodes.lose_the_result(locker, confirmed).await;
    let lease = lease_of(waiter).await.unwrap();
    assert_eq!((lease.lease_id, lease.fencing_token), (id, token));
    let tickets = "SELECT count(*) FROM lock_tickets";
    assert_eq!(nodes.db.value::<i64>(tickets).await, 0);
}

/// The waiter left, and was not told: it is not granted any more, whatever it is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_leaving_was_not_answered_is_not_granted() {
    let nodes = Nodes::start(&[]).await;
    let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
    nodes.second.grant("l", holder, 60_000).await;
    let short = Acquire {
        wait_ms: 1000,
        ..waiting(BOB, id)
    };
    let waiter = nodes.wait(&nodes.first, short, 0).await;
    let locker = nodes.locker().await;
    let left = "SELECT bool_and(is_detached) FROM lock_tickets";
    nodes.lose_the_result(locker, left).await;
    let outcome = waiter.await.unwrap();
    let is_honest = matches!(
        outcome,
        Ok(AcquireOutcome::Held) | Err(EngineError::Unknown)
    );
    assert!(is_honest, "{outcome:?}");
    nodes.second.release("l", holder).await.unwrap();
    let held = "SELECT count(*) FROM locks WHERE end_reason = 0 AND account_id <> 0";
    assert_eq!(nodes.db.value::<i64>(held).await, 0);
}

/// The release was executed, and its result lost: it says so when it is repeated, and the waiter on
/// the other node was granted.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_result_is_lost_hands_over_once() {
    let nodes = Nodes::start(&[]).await;
    let (holder, id, behind) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    nodes.first.grant("l", holder, 60_000).await;
    let waiter = nodes.wait(&nodes.second, waiting(BOB, id), 0).await;
    let next = nodes.wait(&nodes.second, waiting(BOB, behind), 1).await;
    let locker = nodes.locker().await;
    let engine = nodes.first.engine.clone();
    let request = release(ALICE, "l", Some(holder));
    let releasing = tokio::spawn(async move { engine.release(request).await });
    let handed = "SELECT count(*) = 1 FROM locks WHERE account_id = 2";
    nodes.lose_the_result(locker, handed).await;
    assert_eq!(lease_of(waiter).await.map(|lease| lease.lease_id), Some(id));
    assert_eq!(releasing.await.unwrap(), Ok(ReleaseOutcome::Released));
    assert!(!next.is_finished());
}

/// A node that has died is passed over.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_that_is_granted_the_lock_is_caught() {
    let kept = async |nodes: Nodes| {
        let (holder, id) = (Uuid::new_v4(), Uuid::new_v4());
        nodes.second.grant("l", holder, 60_000).await;
        let dead = Uuid::new_v4();
        let _dead = nodes.wait(&nodes.first, waiting(BOB, dead), 0).await;
        let waiter = nodes.wait(&nodes.second, waiting(BOB, id), 1).await;
        nodes.network.sever();
        let is_dead = "SELECT min(looked_at) < clock_timestamp() - interval '2.5 s' FROM nodes";
        nodes.until(is_dead).await;
        let now: DateTime<Utc> = nodes.db.value("SELECT clock_timestamp()").await;
        nodes.second.release("l", holder).await.unwrap();
        let next = lease_of(waiter).await;
        // Not after a claim of the dead node's has lapsed.
        next.is_some_and(|next| (next.acquired_at - now).num_milliseconds() < 2900)
    };
    let passed: Mutant = &[(
        Text::Function("lock_gate"),
        "AND q.node_id + 0 = ANY (live_nodes)",
        "",
    )];
    assert_needed(kept, &[passed]).await;
}

/// A node that pauses in front of its claim: the next waiter has the lock within 4 s. The paused
/// one comes back to its place, with its lease id.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_that_holds_the_others_up_is_caught() {
    let kept = async |nodes: Nodes| {
        let (holder, paused, id) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        nodes.second.grant("l", holder, 60_000).await;
        let first = nodes.wait(&nodes.first, waiting(BOB, paused), 0).await;
        let second = nodes.wait(&nodes.second, waiting(BOB, id), 1).await;
        let third = waiting(ALICE, Uuid::new_v4());
        let third = nodes.wait(&nodes.second, third, 2).await;
        nodes.network.requests(Flow::Freeze);
        nodes.network.answers(Flow::Freeze);
        let token = nodes.release_unheard(holder).await;
        let claimed_at: DateTime<Utc> = nodes
            .db
            .value("SELECT acquired_at FROM locks WHERE claim_token = fencing_token")
            .await;
        let Ok(Ok(Ok(AcquireOutcome::Granted(lease)))) =
            tokio::time::timeout(Duration::from_secs(6), second).await
        else {
            return false;
        };
        let took = lease.acquired_at - claimed_at;
        assert!(took.num_milliseconds() < 4000, "{took}");
        assert!(lease.fencing_token > token);
        nodes.network.mend();
        nodes
            .until("SELECT count(*) = 2 FROM lock_tickets WHERE NOT is_detached")
            .await;
        let released = nodes
            .second
            .engine
            .release(release(BOB, "l", Some(id)))
            .await;
        assert_eq!(released, Ok(ReleaseOutcome::Released));
        let back = lease_of(first).await;
        back.is_some_and(|lease| lease.lease_id == paused) && !third.is_finished()
    };
    let mutants: &[Mutant] = &[
        &[(
            Text::Function("gate_grant"),
            "least(w.lease_ms, 3000)",
            "w.lease_ms",
        )],
        &[(
            Text::Function("gate_withdraw"),
            "UPDATE lock_tickets q\n     SET claim_token = NULL, is_detached = true, \
             waits_until = least(q.waits_until, at)",
            "DELETE FROM lock_tickets q",
        )],
    ];
    assert_needed(kept, mutants).await;
}

//! Insert if absent, the statement for acquires of locks that most likely have no row. Its verdicts
//! are those of the general statement; about a lock that has a row it gives no verdict, and does
//! nothing to it.

use std::sync::Arc;

use lockable::db::{Purpose, pool};
use lockable::locks::engine::{FastOutcome, statements};
use lockable::locks::{AcquireOutcome, Lease};
use uuid::Uuid;

use crate::support::node::{ALICE, BOB, Node, acquire, any_time, release};
use crate::support::prelude::*;

fn granted(outcome: Option<&FastOutcome<AcquireOutcome>>) -> &Lease {
    match outcome {
        Some(FastOutcome::Decided(AcquireOutcome::Granted(lease))) => lease,
        other => panic!("not granted: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_locks_without_a_row_are_granted_and_rows_stay_as_they_are() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let (held, released, used) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    node.grant("b-held", held, 60_000).await;
    node.grant("c-released", released, 60_000).await;
    node.release("c-released", released).await.unwrap();
    node.grant("d-lapsed", Uuid::new_v4(), 60_000).await;
    db.execute("UPDATE locks SET expires_at = 'epoch' WHERE name = 'd-lapsed'")
        .await;
    // The lease of this id has ended, and its lock's row was swept since.
    node.grant("f-swept", used, 60_000).await;
    node.release("f-swept", used).await.unwrap();
    let since = Uuid::new_v4();
    node.grant("f-swept", since, 60_000).await;
    node.release("f-swept", since).await.unwrap();
    db.execute("DELETE FROM locks WHERE name = 'f-swept'").await;
    let rows = "SELECT json_agg(l ORDER BY name)::text
                  FROM (SELECT ctid, xmin, xmax, * FROM locks WHERE name BETWEEN 'b' AND 'dz') l";
    let before: String = db.value(rows).await;

    let mut labelled = acquire(BOB, "g-new", Some(Uuid::new_v4()));
    labelled.lease_ms = 5_000;
    labelled.holder = Some("builder".to_owned());
    labelled.metadata = Some(Box::new(serde_json::json!({"build": 7})));
    labelled.requested_ms = Some(5_000);
    let requests = [
        acquire(BOB, "a-new", None),
        acquire(ALICE, "b-held", Some(held)),
        acquire(ALICE, "c-released", Some(released)),
        acquire(BOB, "d-lapsed", Some(Uuid::new_v4())),
        acquire(ALICE, "e-new", Some(used)), // An id serves one lease of each lock.
        acquire(ALICE, "f-swept", Some(used)),
        labelled,
    ];
    let mut connection = pool(db.options(), Purpose::LockEngine, 1)
        .acquire()
        .await
        .unwrap();
    let outcomes = statements::insert_if_absent(
        &mut connection,
        &requests.iter().collect::<Vec<_>>(),
        any_time(),
    )
    .await
    .unwrap();

    for without_verdict in [1, 2, 3, 5] {
        assert_eq!(
            outcomes[without_verdict], None,
            "{:?}",
            requests[without_verdict]
        );
    }
    assert!(matches!(
        outcomes[4],
        Some(FastOutcome::Decided(AcquireOutcome::Granted(_)))
    ));
    assert_eq!(db.value::<String>(rows).await, before);
    let (plain, labelled) = (granted(outcomes[0].as_ref()), granted(outcomes[6].as_ref()));
    assert_eq!(
        (plain.lease_id, plain.lease_ms, plain.expires_in_ms),
        (requests[0].lease_id, 60_000, 60_000)
    );
    assert_eq!(
        (labelled.lease_id, labelled.lease_ms, labelled.expires_in_ms),
        (requests[6].lease_id, 5_000, 5_000)
    );
    assert!(plain.fencing_token < labelled.fencing_token, "{outcomes:?}");
    assert_eq!(
        (labelled.expires_at - labelled.acquired_at).num_seconds(),
        5
    );
    let (token, account, row): (i64, i64, String) = sqlx::query_as(
        "SELECT fencing_token, account_id,
                concat_ws(' ', end_reason, needs_proof, holder, metadata)
           FROM locks WHERE name = 'g-new'",
    )
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    assert_eq!(
        (token, account, row.as_str()),
        (labelled.fencing_token, BOB, "0 t builder {\"build\": 7}")
    );

    // Without the outage record nothing is granted: nobody could say which leases have ended.
    db.execute("DELETE FROM service_clock").await;
    let request = acquire(BOB, "h-new", None);
    assert_eq!(
        statements::insert_if_absent(&mut connection, &[&request], any_time())
            .await
            .unwrap(),
        [None]
    );
}

/// Both statements on four connections, all about the same new names, in batches that overlap: each
/// name is granted once.
#[tokio::test(flavor = "multi_thread")]
async fn each_new_name_that_many_batches_race_for_is_granted_by_one() {
    const ROUNDS: usize = 40;
    const NAMES: usize = 60;
    let db = Database::create().await;
    let together = Arc::new(tokio::sync::Barrier::new(4));
    let racers: Vec<_> = (0..4)
        .map(|racer| {
            let (options, together) = (db.options(), together.clone());
            tokio::spawn(async move {
                let mut connection = pool(options, Purpose::LockEngine, 1)
                    .acquire()
                    .await
                    .unwrap();
                let mut granted = Vec::new();
                for round in 0..ROUNDS {
                    // Every other name, every third, ...
                    let names = (0..NAMES).filter(|number| number % (racer + 1) == 0);
                    let requests: Vec<_> = names
                        .map(|number| {
                            acquire(
                                ALICE,
                                &format!("{round:03}-{number:03}"),
                                Some(Uuid::new_v4()),
                            )
                        })
                        .collect();
                    let requests: Vec<_> = requests.iter().collect();
                    together.wait().await;
                    let outcomes = if racer < 3 {
                        statements::insert_if_absent(&mut connection, &requests, any_time())
                            .await
                            .unwrap()
                    } else {
                        statements::acquire(&mut connection, &requests, any_time())
                            .await
                            .unwrap()
                    };
                    for (request, outcome) in requests.iter().zip(outcomes) {
                        if let Some(FastOutcome::Decided(AcquireOutcome::Granted(lease))) = outcome
                        {
                            granted
                                .push((request.key.name.as_str().to_owned(), lease.fencing_token));
                        }
                    }
                }
                granted
            })
        })
        .collect();
    let mut winners = [0; 4];
    let mut granted = Vec::new();
    for (racer, of_racer) in racers.into_iter().enumerate() {
        let of_racer = of_racer.await.unwrap();
        winners[racer] = of_racer.len();
        granted.extend(of_racer);
    }
    granted.sort();
    let count = granted.len();
    granted.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(
        (granted.len(), count),
        (ROUNDS * NAMES, ROUNDS * NAMES),
        "won by {winners:?}"
    );
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT name, fencing_token FROM locks ORDER BY name")
            .fetch_all(&mut db.connect().await)
            .await
            .unwrap();
    assert_eq!(rows, granted);
    assert!(
        winners.iter().filter(|won| **won > 0).count() > 1,
        "nobody raced: {winners:?}"
    );
}

/// A lane that predicts an insert, and one that does not, come to the same outcomes.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_prediction_changes_no_outcome() {
    let db = Database::create().await;
    let (one, other) = (
        Node::start(db.options()).await,
        Node::start(db.options()).await,
    );
    let lease_id = Uuid::new_v4();
    let lease = one.grant("a", lease_id, 60_000).await;
    // This node has not seen the name, and predicts that the lock has no row.
    assert_eq!(
        other.acquire("a", Uuid::new_v4(), 60_000).await.unwrap(),
        AcquireOutcome::Held
    );
    let plain = acquire(BOB, "a", None);
    assert_eq!(
        other.engine.acquire(plain).await.unwrap(),
        AcquireOutcome::Held
    );
    let third = Node::start(db.options()).await;
    let renewed = third.grant("a", lease_id, 60_000).await;
    assert_eq!(
        (renewed.fencing_token, renewed.acquired_at),
        (lease.fencing_token, lease.acquired_at)
    );
    third
        .engine
        .release(release(ALICE, "a", Some(lease_id)))
        .await
        .unwrap();
    let fourth = Node::start(db.options()).await;
    assert_eq!(
        fourth.acquire("a", lease_id, 60_000).await.unwrap(),
        AcquireOutcome::LeaseEnded
    );
    let again = fourth.grant("a", Uuid::new_v4(), 60_000).await;
    assert!(again.fencing_token > lease.fencing_token);
    // A name that it has seen, and a lock whose row is gone.
    db.execute("DELETE FROM locks").await;
    assert!(
        fourth
            .grant("a", Uuid::new_v4(), 60_000)
            .await
            .fencing_token
            > again.fencing_token
    );
}

/// A node that sees many names for the first time, of locks that all have rows, soon stops
/// predicting inserts, and its refusals write nothing again.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_many_names_draw_few_fencing_tokens() {
    const NAMES: usize = 4000;
    let db = Database::create().await;
    db.execute(&format!(
        "INSERT INTO locks (namespace_id, name, account_id, token_id, fencing_token, acquired_at,
                            expires_at, lease_id, lease_ms, needs_proof)
         SELECT 1, 'held-' || n, 1, 1, nextval('lock_fence'), now(), now() + interval '1 h',
                gen_random_uuid(), 60000, true
           FROM generate_series(0, {NAMES} - 1) n"
    ))
    .await;
    let node = Node::start(db.options()).await;
    let drawn = "SELECT last_value FROM lock_fence";
    let before: i64 = db.value(drawn).await;
    for first in (0..NAMES).step_by(100) {
        let pending = (first..first + 100).map(|n| {
            node.engine
                .acquire(acquire(BOB, &format!("held-{n}"), None))
        });
        for outcome in futures_util::future::join_all(pending).await {
            assert_eq!(outcome, Ok(AcquireOutcome::Held));
        }
    }
    let drawn = db.value::<i64>(drawn).await - before;
    assert!(drawn > 0, "no insert was predicted");
    // A quarter, and the first batch.
    assert!(
        drawn <= NAMES as i64 / 4 + 100,
        "{drawn} tokens for {NAMES} refusals"
    );
}

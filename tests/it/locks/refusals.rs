//! A refusal writes nothing: no transaction id, no WAL, no row version, so that pollers cost the
//! holder nothing.

use std::sync::Arc;
use std::time::Duration;

use lockable::locks::AcquireOutcome;
use lockable::outages;
use uuid::Uuid;

use crate::support::node::{ALICE, BOB, Node, acquire, heartbeat, lost, release, renewed};
use crate::support::prelude::*;

/// The values that any write would change. The cluster is the test's own, so nobody else writes.
async fn traces_of_writes(db: &Database) -> (String, String, i64) {
    let wal = "SELECT pg_current_wal_insert_lsn()::text";
    let transaction = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
    db.execute("SELECT pg_stat_clear_snapshot()").await;
    let rows = "SELECT (n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_user_tables
                 WHERE relname = 'locks'";
    (
        db.value(wal).await,
        db.value(transaction).await,
        db.value(rows).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_write_nothing() {
    let cluster = Arc::new(tokio::task::block_in_place(|| {
        Cluster::durable_with(&[
            "autovacuum=off",
            "wal_level=minimal",
            "max_wal_senders=0",
            "bgwriter_delay=10s",
        ])
    }));
    let db = Database::create_in(&cluster).await;
    let node = Node::start_ticking_every(&db.options(), Duration::from_secs(3600));
    outages::tick(&node.pool).await.unwrap();
    let (held, ended) = (Uuid::new_v4(), Uuid::new_v4());
    node.grant("ended", ended, 60_000).await;
    node.release("ended", ended).await.unwrap();
    node.grant("held", held, 60_000).await;
    // A release with an id that is not known leaves a mark, once.
    let strange = Uuid::new_v4();
    let refusals = async || {
        for account in [ALICE, BOB] {
            for proof in [None, Some(Uuid::new_v4())] {
                let request = acquire(account, "held", proof);
                let outcome = node.engine.acquire(request).await.unwrap();
                assert_eq!(outcome, AcquireOutcome::Held);
            }
            for name in ["held", "ended", "never taken"] {
                for proof in [None, Some(strange)] {
                    lost(node.engine.heartbeat(heartbeat(account, name, proof)).await);
                    let outcome = node
                        .engine
                        .release(release(account, name, proof))
                        .await
                        .unwrap();
                    assert!(
                        matches!(outcome, lockable::locks::ReleaseOutcome::Lost(_)),
                        "{outcome:?}"
                    );
                }
            }
        }
        assert_eq!(
            node.acquire("ended", ended, 60_000).await.unwrap(),
            AcquireOutcome::LeaseEnded
        );
        lost(node.heartbeat("ended", ended).await);
        node.release("ended", ended).await.unwrap();
    };
    // The first time may write, to catalogs and hint bits.
    refusals().await;
    traces_of_writes(&db).await;
    let before = traces_of_writes(&db).await;
    for _ in 0..10 {
        refusals().await;
    }
    assert_eq!(traces_of_writes(&db).await, before);
    // A request that is not refused does write, and the traces show it.
    renewed(node.heartbeat("held", held).await);
    let after = traces_of_writes(&db).await;
    assert!(after.0 != before.0 && after.1 != before.1, "{after:?}");
}

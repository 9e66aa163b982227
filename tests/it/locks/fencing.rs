//! P4: fencing tokens increase in the order of grants, whatever happens in between.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use uuid::Uuid;

use super::workload::{Load, Subject, run};
use crate::support::cluster::SUPERUSER;
use crate::support::history::{Outcome, Request, Rules};
use crate::support::node::Node;
use crate::support::prelude::*;

struct Nodes(Vec<Node>);

impl Subject for Nodes {
    async fn perform(&self, node: usize, request: &Request, lease: Duration) -> Outcome {
        self.0[node].perform(request, lease).await
    }
}

/// The same clients, rules and checker that find each of the bugs in `mutants`.
#[tokio::test(flavor = "multi_thread")]
async fn histories_of_two_nodes_hold_the_promises() {
    let lease = Duration::from_millis(500);
    let busy = Load {
        clients: 24,
        locks: 3,
        nodes: 2,
        lease,
        pause: Duration::from_millis(4),
        heartbeats: 3,
        forgotten: 5,
        accounts: 3,
        without_id: 40,
        own_lengths: false,
        time: Duration::from_secs(3),
    };
    let hasty = Load {
        locks: 1,
        pause: Duration::ZERO,
        heartbeats: 1,
        forgotten: 0,
        time: Duration::from_secs(2),
        ..busy
    };
    for load in [busy, hasty] {
        let db = Database::create().await;
        let nodes = vec![
            Node::start(db.options()).await,
            Node::start(db.options()).await,
        ];
        let nodes = Arc::new(Nodes(nodes));
        // How much happens in a second depends on the machine.
        let (mut held, mut refused) = (0, 0);
        while held < 150 || refused < 20 {
            let history = run(nodes.clone(), load).await;
            history.assert_holds(Rules::new(lease, Duration::ZERO));
            held += history.count(|call| matches!(call.outcome, Outcome::Held { .. }));
            refused += history.count(|call| call.outcome == Outcome::Refused);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_increase_across_release_expiry_and_clean_up() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let mut tokens = Vec::new();
    for ending in ["release", "lapse", "row deleted"] {
        let lease_id = Uuid::new_v4();
        tokens.push(node.grant("l", lease_id, 1000).await.fencing_token);
        match ending {
            "release" => {
                node.release("l", lease_id).await.unwrap();
            }
            "lapse" => {
                let lapsed = "SELECT expires_at < clock_timestamp() FROM locks";
                eventually("it lapses", async || {
                    db.value::<bool>(lapsed).await.then_some(())
                })
                .await;
            }
            _ => db.execute("DELETE FROM locks").await,
        }
    }
    tokens.push(node.grant("l", Uuid::new_v4(), 1000).await.fencing_token);
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

/// A copy of the files that is promoted, as in a failover that lost the last grants: another
/// timeline.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_copy_never_repeats_a_token() {
    let cluster = Arc::new(tokio::task::block_in_place(Cluster::durable));
    let db = Database::create_in(&cluster).await;
    let node = Node::start(db.options()).await;
    node.grant("l", Uuid::new_v4(), 60_000).await;
    let copy = Arc::new(tokio::task::block_in_place(|| {
        let copy = cluster.copy();
        std::fs::write(copy.data().join("standby.signal"), "").unwrap();
        copy.start();
        copy
    }));
    // Granted by the old primary after the copy was taken: the copy does not know of it.
    let lost = node
        .grant("other", Uuid::new_v4(), 60_000)
        .await
        .fencing_token;
    let copied = Database::existing_in(&copy, &db.name);
    copied.execute("SELECT pg_promote()").await;
    let node = Node::start(copied.options()).await;
    let lease = node.grant("other", Uuid::new_v4(), 60_000).await;
    assert!(lease.fencing_token > lost, "{lease:?} after {lost}");
    assert!(lease.fencing_token > 1 << 32, "moved far ahead: {lease:?}");
    // The tokens move once, not for each connection.
    let again = Node::start(copied.options())
        .await
        .grant("third", Uuid::new_v4(), 60_000)
        .await;
    assert!(
        again.fencing_token < lease.fencing_token + 100,
        "{again:?} after {lease:?}"
    );
}

/// A dump that was restored elsewhere: another cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_into_another_cluster_never_repeats_a_token() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    node.grant("l", Uuid::new_v4(), 60_000).await;
    let dump = tempfile::NamedTempFile::new().unwrap();
    let mut pg_dump = db.cluster().client("pg_dump");
    pg_dump
        .args(["--format", "custom", "--dbname", &db.name, "--file"])
        .arg(dump.path());
    assert!(
        tokio::task::block_in_place(|| pg_dump.status())
            .unwrap()
            .success()
    );
    let lost = node
        .grant("other", Uuid::new_v4(), 60_000)
        .await
        .fencing_token;

    let elsewhere = Arc::new(tokio::task::block_in_place(Cluster::durable));
    let mut pg_restore = elsewhere.client("pg_restore");
    pg_restore
        .args(["--create", "--dbname", SUPERUSER])
        .arg(dump.path());
    assert!(
        tokio::task::block_in_place(|| pg_restore.status())
            .unwrap()
            .success()
    );
    let restored = Database::existing_in(&elsewhere, &db.name);
    let node = Node::start(restored.options()).await;
    let lease = node.grant("other", Uuid::new_v4(), 60_000).await;
    assert!(
        lease.fencing_token > lost && lease.fencing_token > 1 << 32,
        "{lease:?} after {lost}"
    );
}

/// A disk image changes neither system identifier nor timeline: `lockable admin restored` says it.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_disk_image_the_tokens_are_moved_by_command() {
    let db = Database::create().await;
    let node = Node::start(db.options()).await;
    let before = node.grant("l", Uuid::new_v4(), 60_000).await;
    let next = lockable::db::identity::restored(&db.pool).await.unwrap();
    assert!(next > before.fencing_token + (1 << 32) - 1);
    let after = node.grant("other", Uuid::new_v4(), 60_000).await;
    assert!(after.fencing_token >= next, "{after:?}, {next}");
    let row = sqlx::query(
        "SELECT max_value, cache_size FROM pg_sequences WHERE sequencename = 'lock_fence'",
    );
    let row = row.fetch_one(&db.pool).await.unwrap();
    assert_eq!(
        (row.get::<i64, _>(0), row.get::<i64, _>(1)),
        ((1 << 53) - 1, 1),
        "exact in JSON, and drawn in order"
    );
}

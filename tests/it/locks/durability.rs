//! P2: outcomes that clients received survive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockable::locks::{AcquireOutcome, Lost};
use sqlx::postgres::PgConnectOptions;
use uuid::Uuid;

use crate::support::node::{Node, lost, renewed};
use crate::support::prelude::*;

/// Takes and releases locks until `stop` is set, and returns those that it knows to hold, and those
/// that it released.
async fn take_and_release(
    node: Arc<Node>,
    client: usize,
    stop: Arc<AtomicBool>,
) -> (BTreeMap<String, (Uuid, i64)>, BTreeMap<String, Uuid>) {
    let (mut held, mut released) = (BTreeMap::new(), BTreeMap::new());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (name, lease_id) = (format!("{client}-{number}"), Uuid::new_v4());
        match node.acquire(&name, lease_id, 3_600_000).await {
            Ok(AcquireOutcome::Granted(lease)) => {
                held.insert(name.clone(), (lease_id, lease.fencing_token))
            }
            _ => continue,
        };
        if number % 3 == 0 {
            held.remove(&name);
            if node.release(&name, lease_id).await.is_ok() {
                released.insert(name, lease_id);
            }
        }
    }
    (held, released)
}

/// Crashes a PostgreSQL under load, and returns the outcomes that are missing afterwards, and how
/// many clients had received.
async fn missing_after_a_crash(
    change: impl Fn(PgConnectOptions) -> PgConnectOptions,
) -> (Vec<String>, usize) {
    let cluster = Arc::new(tokio::task::block_in_place(|| {
        Cluster::durable_with(&["wal_writer_delay=10s"])
    }));
    let db = Database::create_in(&cluster).await;
    let node = Arc::new(Node::start(change(db.options())).await);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16)
        .map(|client| tokio::spawn(take_and_release(node.clone(), client, stop.clone())))
        .collect();
    eventually("there is something to lose", async || {
        (db.value::<i64>("SELECT count(*) FROM locks").await > 300).then_some(())
    })
    .await;
    tokio::task::block_in_place(|| {
        cluster.crash();
        // A node that retries may still answer requests from before the crash; nothing new is sent.
        stop.store(true, Ordering::Relaxed);
        cluster.start();
    });
    let (mut missing, mut answered) = (Vec::new(), 0);
    let node = Node::start(db.options()).await;
    for client in clients {
        let (held, released) = client.await.unwrap();
        answered += held.len() + released.len();
        for (name, (lease_id, token)) in held {
            match node.heartbeat(&name, lease_id).await.unwrap() {
                lockable::locks::HeartbeatOutcome::Renewed(lease)
                    if lease.fencing_token == token => {}
                other => missing.push(format!("{name}: {other:?}")),
            }
        }
        for (name, lease_id) in released {
            if lost(node.heartbeat(&name, lease_id).await) != Lost::Released {
                missing.push(format!("{name} was released"));
            }
        }
    }
    (missing, answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_postgresql_loses_nothing_that_was_answered() {
    let (missing, answered) = missing_after_a_crash(|options| options).await;
    assert_eq!(missing, Vec::<String>::new());
    assert!(answered > 300, "{answered}");
}

/// The same with a database that is configured not to wait for its disk: the service's sessions set
/// what they need.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_set_to_asynchronous_commit_loses_nothing_either() {
    let (missing, _) =
        missing_after_a_crash(|options| options.options([("synchronous_commit", "off")])).await;
    assert_eq!(missing, Vec::<String>::new());
}

/// The measure can see a loss: a session that does not wait for the disk is caught.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_before_its_commit_is_durable_is_caught() {
    let cluster = Arc::new(tokio::task::block_in_place(|| {
        Cluster::durable_with(&["wal_writer_delay=10s"])
    }));
    let db = Database::create_in(&cluster).await;
    db.execute("CREATE TABLE naive (name text PRIMARY KEY)")
        .await;
    let mut hasty = db.connect().await;
    sqlx::query("SET synchronous_commit = off")
        .execute(&mut hasty)
        .await
        .unwrap();
    for number in 0..300 {
        let insert = sqlx::query("INSERT INTO naive VALUES ($1)").bind(number.to_string());
        insert.execute(&mut hasty).await.unwrap();
    }
    tokio::task::block_in_place(|| {
        cluster.crash();
        cluster.start();
    });
    eventually("the database answers", async || {
        sqlx::query("SELECT 1").execute(&db.pool).await.ok()
    })
    .await;
    assert!(
        db.value::<i64>("SELECT count(*) FROM naive").await < 300,
        "a crash that loses nothing would prove nothing"
    );
}

/// A node is killed with SIGKILL, and another one is started over the same database.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_takes_no_lease_with_it() {
    let app = TestApp::start().await;
    let token = app.account("hobbyist").await.token().await;
    let start = || {
        tokio::task::block_in_place(|| {
            Process::start(|command| {
                command
                    .arg("--unsafe-database")
                    .env("DATABASE_URL", app.db.url());
            })
        })
    };
    let send = async |process: &Process, path: &str| {
        let request = process
            .anonymous()
            .request(reqwest::Method::POST, path)
            .basic_auth(token.expose(), Some(""));
        crate::support::client::send(request).await.verdict()
    };
    let lease_id = Uuid::new_v4();
    let first = start();
    assert!(send(&first, &format!("/v1/acquire/with-id?lease_id={lease_id}")).await);
    assert!(send(&first, "/v1/acquire/without").await);
    first.signal(nix::sys::signal::Signal::SIGKILL);
    first.wait();
    let second = start();
    assert!(!send(&second, "/v1/acquire/with-id").await);
    assert!(!send(&second, "/v1/acquire/without").await);
    assert!(
        send(
            &second,
            &format!("/v1/heartbeat/with-id?lease_id={lease_id}")
        )
        .await
    );
    assert!(send(&second, "/v1/heartbeat/without").await);
    assert!(send(&second, &format!("/v1/release/with-id?lease_id={lease_id}")).await);
    assert!(send(&second, "/v1/acquire/with-id").await);
}

/// Sessions wait for the disk, and set what correctness depends on whatever the database has set.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_set_what_correctness_depends_on() {
    let db = Database::create().await;
    let harmful = [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "statement_timeout = '1ms'",
        "lock_timeout = 0",
        "synchronous_commit = off",
    ];
    db.execute(
        &harmful
            .map(|setting| format!("ALTER DATABASE {} SET {setting}", db.name))
            .join("; "),
    )
    .await;
    let node = Node::start(db.options()).await;
    let lease_id = Uuid::new_v4();
    node.grant("l", lease_id, 60_000).await;
    renewed(node.heartbeat("l", lease_id).await);
    let settings: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, setting FROM pg_settings
          WHERE name IN ('default_transaction_isolation', 'default_transaction_read_only',
                         'statement_timeout', 'lock_timeout', 'synchronous_commit') ORDER BY name",
    )
    .fetch_all(&node.pool)
    .await
    .unwrap();
    let expected = [
        ("default_transaction_isolation", "read committed"),
        ("default_transaction_read_only", "off"),
        ("lock_timeout", "1000"),
        ("statement_timeout", "0"),
        ("synchronous_commit", "on"),
    ];
    assert_eq!(
        settings,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

//! Nodes over a PostgreSQL of the operator's: starting together, refusing what cannot keep the
//! promises, stopping.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use sqlx::{Connection, Executor};

use super::{DataDir, failed, succeeded};
use crate::support::prelude::*;
use crate::support::process::lockable;

/// A node over a database of the test's own.
fn node(database: &Database, data: &DataDir) -> Process {
    Process::start(|command| {
        command
            .env("DATABASE_URL", database.url())
            .arg("--unsafe-database")
            .arg("--data-dir")
            .arg(data.path());
    })
}

fn token(database: &Database) -> String {
    let run = |arguments: &[&str]| {
        let mut command = lockable();
        command
            .args(arguments)
            .env("DATABASE_URL", database.url())
            .arg("--unsafe-database");
        succeeded(&command.output().unwrap())
    };
    run(&[
        "admin",
        "account",
        "create",
        "--email",
        "ada@example.com",
        "--plan",
        "business",
    ]);
    run(&["admin", "token", "create", "--email", "ada@example.com"])
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn several_nodes_may_start_at_once_on_an_empty_database() {
    let database = Arc::new(Database::create_empty().await);
    let starts: Vec<_> = (0..3)
        .map(|_| {
            let database = database.clone();
            tokio::task::spawn_blocking(move || {
                let data = DataDir::new();
                (node(&database, &data), data)
            })
        })
        .collect();
    for start in starts {
        let (node, _data) = start.await.unwrap();
        assert_eq!(node.anonymous().get("/readyz").await.status, 200);
    }
    let known = lockable::db::migrate::newest();
    assert_eq!(
        database
            .value::<i64>("SELECT count(*) FROM _sqlx_migrations WHERE success")
            .await,
        known
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_program_that_is_too_old_for_the_schema_refuses_it() {
    let database = Database::create_empty().await;
    let migrate = || {
        lockable()
            .arg("migrate")
            .env("DATABASE_URL", database.url())
            .arg("--unsafe-database")
            .output()
            .unwrap()
    };
    succeeded(&migrate());
    succeeded(&migrate());
    // A newer node has run a migration that this program does not know, and works with.
    let this = env!("CARGO_PKG_VERSION");
    database
        .execute(&format!(
            "INSERT INTO schema_compatibility VALUES (9000, '{this}')"
        ))
        .await;
    database
        .execute("INSERT INTO _sqlx_migrations VALUES (9000, 'newer', now(), true, '\\x00', 0)")
        .await;
    succeeded(&migrate());
    database
        .execute("INSERT INTO schema_compatibility VALUES (9001, '99.10.0')")
        .await;
    let said = failed(&migrate(), 1);
    assert!(said.contains("99.10.0") && said.contains(this), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_may_forget_is_refused() {
    // The tests' shared cluster runs with fsync off.
    let database = Database::create_empty().await;
    let output = lockable()
        .arg("migrate")
        .env("DATABASE_URL", database.url())
        .output()
        .unwrap();
    let said = failed(&output, 1);
    assert!(
        said.contains("fsync") && said.contains("--unsafe-database"),
        "{said}"
    );
    assert!(
        database
            .value::<bool>("SELECT to_regclass('plans') IS NULL")
            .await,
        "nothing was changed"
    );
    let cluster = Arc::new(Cluster::durable());
    let database = Database::create_in(&cluster).await;
    succeeded(
        &lockable()
            .arg("migrate")
            .env("DATABASE_URL", database.url())
            .output()
            .unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_waits_for_a_database_that_starts_and_not_for_one_that_is_wrong() {
    let cluster = Arc::new(Cluster::durable());
    let database = Arc::new(Database::create_in(&cluster).await);
    cluster.stop();
    let start = tokio::task::spawn_blocking({
        let database = database.clone();
        move || {
            let data = DataDir::new();
            (node(&database, &data), data)
        }
    });
    cluster.start();
    let (node, _data) = start.await.unwrap();
    assert_eq!(node.anonymous().get("/readyz").await.status, 200);
    let data = DataDir::new();
    let mut wrong = data.command(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--metrics-listen",
        "127.0.0.1:0",
    ]);
    let said = failed(
        &wrong
            .env("DATABASE_URL", cluster.url("no_such_database"))
            .output()
            .unwrap(),
        1,
    );
    assert!(said.contains("no_such_database"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_replication_is_warned_of() {
    let cluster = Arc::new(Cluster::durable());
    let database = Database::create_in(&cluster).await;
    let migrate = || {
        lockable()
            .arg("migrate")
            .env("DATABASE_URL", database.url())
            .output()
            .unwrap()
    };
    assert!(
        !String::from_utf8(migrate().stderr)
            .unwrap()
            .contains("asynchronously")
    );
    let folder = tempfile::tempdir().unwrap();
    let mut receiver = cluster
        .client("pg_receivewal")
        .arg("-D")
        .arg(folder.path())
        .spawn()
        .unwrap();
    eventually("it receives", async || {
        (database
            .value::<i64>("SELECT count(*) FROM pg_stat_replication")
            .await
            > 0)
        .then_some(())
    })
    .await;
    let said = String::from_utf8(migrate().stderr).unwrap();
    receiver.kill().unwrap();
    receiver.wait().unwrap();
    assert!(
        said.contains("asynchronously") && said.contains("synchronous_standby_names"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_wrong_usage() {
    let usage = |arguments: &[&str]| {
        let said = failed(
            &lockable().arg("serve").args(arguments).output().unwrap(),
            2,
        );
        assert!(!said.contains("panicked"), "{said}");
        said
    };
    assert!(usage(&["--tls-cert", "cert.pem"]).contains("--tls-key"));
    assert!(usage(&["--public-url", "locks.example.com"]).contains("https://"));
    assert!(usage(&["--database-url", "mysql://x/y"]).contains("postgres://"));
    assert!(usage(&["--listen", "8080"]).contains("127.0.0.1:8080"));
    assert!(usage(&["--log", "lockable=loud"]).contains("--log"));
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_database_and_life_does_not() {
    let cluster = Arc::new(Cluster::durable());
    let database = Database::create_in(&cluster).await;
    let data = DataDir::new();
    let node = node(&database, &data);
    let client = node.anonymous();
    assert_eq!(client.get("/readyz").await.status, 200);
    cluster.stop();
    let answer = client.get("/readyz").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["status"]),
        (503, &"not ready".into())
    );
    assert!(
        answer.json()["reason"]
            .as_str()
            .unwrap()
            .contains("database")
    );
    assert_eq!(client.get("/healthz").await.status, 200);
    cluster.start();
    eventually("it is ready again", async || {
        (client.get("/readyz").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_is_in_flight() {
    let database = Database::create().await;
    let token = token(&database);
    let data = DataDir::new();
    let node = Arc::new(node(&database, &data));
    let client = node.token(&token);
    assert!(client.acquire("warm-up").await.verdict());
    let mut blocker = database.connect().await;
    let mut block = blocker.begin().await.unwrap();
    block
        .execute("LOCK TABLE locks IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let request = tokio::spawn(async move { client.acquire("deploy").await });
    eventually("the request waits for the table", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND (query LIKE '%deploy%' OR query LIKE '%locks.acquire%')";
        (database.value::<i64>(waiting).await > 0).then_some(())
    })
    .await;
    node.signal(Signal::SIGTERM);
    node.wait_for_line("that it stops", |line| {
        line.contains("answering what is in flight").then_some(())
    });
    eventually("nobody new is let in", async || {
        TcpStream::connect(node.address).is_err().then_some(())
    })
    .await;
    block.rollback().await.unwrap();
    assert!(request.await.unwrap().verdict(), "{}", node.log());
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let database = Database::create().await;
    let token = token(&database);
    let data = DataDir::new();
    let node = Process::start(|command| {
        command
            .env("DATABASE_URL", database.url())
            .arg("--unsafe-database")
            .arg("--data-dir")
            .arg(data.path());
        command.args(["--drain-timeout-ms", "600000"]);
    });
    // An open request whose body never comes.
    let mut slow = TcpStream::connect(node.address).unwrap();
    let head = format!(
        "POST /v1/acquire/x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n{}",
        &token[..1]
    );
    slow.write_all(head.as_bytes()).unwrap();
    node.signal(Signal::SIGTERM);
    node.wait_for_line("that it stops", |line| {
        line.contains("answering what is in flight").then_some(())
    });
    node.signal(Signal::SIGTERM);
    node.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_headers_and_silent_connections_are_not_kept() {
    let database = Database::create().await;
    let data = DataDir::new();
    let node = node(&database, &data);
    let mut silent = TcpStream::connect(node.address).unwrap();
    silent.write_all(b"GET /healthz HTT").unwrap();
    let mut huge = TcpStream::connect(node.address).unwrap();
    // It may stop reading, and close, before all is written.
    let _ = huge.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ");
    let _ = huge.write_all(&vec![b'a'; 200_000]);
    let mut answer = [0; 12];
    if huge.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    silent
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut rest = Vec::new();
    // Closed by the server, with or without a word; not by our own time-out.
    match silent.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(node.anonymous().get("/healthz").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_shown_on_their_own_listener() {
    let database = Database::create().await;
    let data = DataDir::new();
    let node = node(&database, &data);
    assert_eq!(node.anonymous().get("/healthz").await.status, 200);
    let metrics = node.wait_for_line("where its metrics are", |line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(line["metrics"].as_str()?.to_owned())
    });
    let text = reqwest::get(format!("http://{metrics}/metrics"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        text.contains(
            r#"lockable_http_requests_total{route="/healthz",method="GET",status="200"} 1"#
        ),
        "{text}"
    );
    assert_eq!(node.anonymous().get("/metrics").await.status, 404);
}

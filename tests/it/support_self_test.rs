//! The tools are tested too: a proxy that cuts nothing would let every test pass.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::cluster::SHARED_ONLY;
use crate::support::prelude::*;
use crate::support::proxy::Flow;

const MOMENT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn databases_are_separate_and_migrated() {
    let (one, other) = tokio::join!(Database::create(), Database::create());
    one.execute("UPDATE service_clock SET grace_ms = 1").await;
    assert_eq!(
        one.value::<i32>("SELECT grace_ms FROM service_clock").await,
        1
    );
    assert_eq!(
        other
            .value::<i32>("SELECT grace_ms FROM service_clock")
            .await,
        60_000
    );
    let empty = Database::create_empty().await;
    assert_eq!(
        empty
            .value::<i64>("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_cluster_survives_stop_crash_and_freeze() {
    let cluster = Arc::new(Cluster::durable());
    let db = Database::create_in(&cluster).await;
    db.execute("UPDATE service_clock SET grace_ms = 1").await;
    cluster.crash();
    PgConnection::connect_with(&db.options())
        .await
        .expect_err("nothing answers");
    cluster.start();
    let grace = || db.value::<i32>("SELECT grace_ms FROM service_clock");
    assert_eq!(eventually_ok(&db, grace).await, 1);
    cluster.stop();
    cluster.start();
    assert_eq!(eventually_ok(&db, grace).await, 1);
    cluster.pause();
    tokio::time::timeout(MOMENT, db.pool.execute("SELECT 1"))
        .await
        .expect_err("frozen");
    cluster.resume();
    assert_eq!(grace().await, 1);
}

/// `script/test --fast` leaves out the tests that start a cluster of their own. One that it
/// misses fails.
#[test]
fn a_fast_run_starts_no_cluster_of_a_tests_own() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("script/test");
    let output = Command::new(script)
        .arg("--list-own-cluster")
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let listed: Vec<_> = listed.lines().collect();
    let own = "support_self_test::a_durable_cluster_survives_stop_crash_and_freeze";
    assert!(listed.iter().any(|module| own.starts_with(module)));
    // Each is a module with tests.
    let all = Command::new(std::env::current_exe().unwrap())
        .arg("--list")
        .output()
        .unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    for module in &listed {
        assert!(
            all.lines().any(|test| test.starts_with(module)),
            "{module} has no tests"
        );
    }
    let missed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", own])
        .env(SHARED_ONLY, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&missed.stdout);
    assert!(
        !missed.status.success() && said.contains("script/test --fast did not find"),
        "{said}"
    );
}

/// The pool may still hold sessions of before the restart, and finds out one by one.
async fn eventually_ok<T>(db: &Database, read: impl AsyncFn() -> T) -> T {
    eventually("the database answers", async || {
        db.pool.execute("SELECT 1").await.ok()
    })
    .await;
    read().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_cluster_has_its_data() {
    let cluster = Arc::new(Cluster::durable());
    let db = Database::create_in(&cluster).await;
    db.execute("UPDATE service_clock SET grace_ms = 7").await;
    let copy = Arc::new(tokio::task::block_in_place(|| cluster.copy()));
    copy.start();
    let copied = Database::existing_in(&copy, &db.name);
    db.execute("UPDATE service_clock SET grace_ms = 8").await;
    assert_eq!(
        copied
            .value::<i32>("SELECT grace_ms FROM service_clock")
            .await,
        7
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_passes_freezes_loses_and_cuts() {
    let db = Database::create().await;
    let proxy = Proxy::to(&db).await;
    let mut connection = PgConnection::connect_with(&proxy.options(&db))
        .await
        .unwrap();
    connection.execute("CREATE TABLE t (n int)").await.unwrap();

    proxy.answers(Flow::Freeze);
    {
        let mut insert = Box::pin(connection.execute("INSERT INTO t VALUES (1)"));
        tokio::time::timeout(MOMENT, &mut insert)
            .await
            .expect_err("the answer is kept back");
        assert_eq!(
            db.value::<i64>("SELECT count(*) FROM t").await,
            1,
            "it is done all the same"
        );
        proxy.answers(Flow::Pass);
        insert.await.unwrap();
    }
    proxy.answers(Flow::Delay(MOMENT));
    let started = std::time::Instant::now();
    connection
        .execute("INSERT INTO t VALUES (2)")
        .await
        .unwrap();
    assert!(started.elapsed() >= MOMENT);

    proxy.answers(Flow::Cut);
    connection
        .execute("INSERT INTO t VALUES (3)")
        .await
        .expect_err("cut");
    assert_eq!(
        db.value::<i64>("SELECT count(*) FROM t").await,
        3,
        "done, and nobody was told"
    );

    proxy.mend();
    let mut connection = PgConnection::connect_with(&proxy.options(&db))
        .await
        .unwrap();
    proxy.requests(Flow::Drop);
    tokio::time::timeout(MOMENT, connection.execute("INSERT INTO t VALUES (4)"))
        .await
        .expect_err("lost");
    assert_eq!(db.value::<i64>("SELECT count(*) FROM t").await, 3);

    proxy.sever();
    PgConnection::connect_with(&proxy.options(&db))
        .await
        .expect_err("refused");
    proxy.mend();
    let mut connection = PgConnection::connect_with(&proxy.options(&db))
        .await
        .unwrap();
    connection.execute("SELECT 1").await.unwrap();
    assert!(proxy.passed_to_server() > 0 && proxy.passed_to_client() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_serves_with_several_nodes() {
    let app = TestApp::start().await;
    let other = app.another_node().await;
    for node in [&app, &other] {
        assert_eq!(node.anonymous().get("/healthz").await.status, 200);
    }
    let account = app.account("business").await;
    account.private("team").await;
    assert_eq!(account.row().await.plan, "business");
    other.kill();
    eventually("the killed node answers no more", async || {
        crate::support::client::try_send(
            other.anonymous().request(reqwest::Method::GET, "/healthz"),
        )
        .await
        .err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_serves_a_database_of_the_test() {
    let db = Database::create().await;
    let process = tokio::task::block_in_place(|| {
        Process::start(|command| {
            command
                .arg("--unsafe-database")
                .env("DATABASE_URL", db.url());
        })
    });
    assert_eq!(
        process.anonymous().get("/readyz").await.status,
        200,
        "{}",
        process.log()
    );
    process.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(process.wait().success());
}

//! The database's clock is set while nodes carry an older reading of it: they recover by
//! themselves.

use lockable::locks::HeartbeatOutcome;

use super::*;

/// Makes the clock of a database one that the test can set.
async fn settable_clock(db: &Database) {
    db.execute(&format!(
        "CREATE TABLE shift (seconds double precision NOT NULL);
         INSERT INTO shift VALUES (0);
         CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
           'SELECT pg_catalog.clock_timestamp() + seconds * interval ''1 s'' FROM public.shift';
         ALTER DATABASE {} SET search_path = public, pg_catalog",
        db.name
    ))
    .await;
}

/// Sets the clock by so many seconds under two nodes that have each taken a lock, and lets each
/// keep, give back and take locks within its ordinary deadline.
async fn recovers(seconds: f64) {
    let db = Database::create().await;
    settable_clock(&db).await;
    let nodes = [
        Node::start(db.options()).await,
        Node::start(db.options()).await,
    ];
    let ids = [Uuid::new_v4(), Uuid::new_v4()];
    for (node, id) in nodes.iter().zip(ids) {
        node.grant(&id.to_string(), id, DAY_MS).await;
    }
    db.execute(&format!("UPDATE shift SET seconds = {seconds}"))
        .await;
    for (node, id) in nodes.iter().zip(ids) {
        let name = id.to_string();
        let outcome = node.heartbeat(&name, id).await;
        assert!(
            matches!(outcome, Ok(HeartbeatOutcome::Renewed(_))),
            "{outcome:?}"
        );
        let outcome = node.release(&name, Uuid::new_v4()).await;
        assert!(
            matches!(outcome, Ok(ReleaseOutcome::Lost(_))),
            "{outcome:?}"
        );
        assert_eq!(node.release(&name, id).await, Ok(ReleaseOutcome::Released));
        granted(node.acquire(&name, Uuid::new_v4(), 60_000).await);
        granted(
            node.acquire(&format!("new-{name}"), Uuid::new_v4(), 60_000)
                .await,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_recover_from_a_clock_that_is_set_forward() {
    recovers(3600.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_recover_from_a_clock_that_is_set_back() {
    recovers(-3600.0).await;
}

/// The clock is really the test's: without a new reading, a statement comes too late.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_the_clock_has_overtaken_writes_nothing() {
    let db = Database::create().await;
    settable_clock(&db).await;
    let node = Node::start(db.options()).await;
    let mut connection = node.pool.acquire().await.unwrap();
    let latest_at: DateTime<Utc> = sqlx::query_scalar("SELECT clock_timestamp() + interval '1 m'")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    db.execute("UPDATE shift SET seconds = 3600").await;
    let request = acquire(ALICE, "l", None);
    let outcomes =
        lockable::locks::engine::statements::acquire(&mut connection, &[&request], latest_at)
            .await
            .unwrap();
    assert_eq!(outcomes, [None]);
    assert_eq!(db.value::<i64>("SELECT count(*) FROM locks").await, 0);
}

//! `lockable status` and `list` against a node: what the service says is what the commands show.

use std::process::Output;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::client_world::World;
use super::{failed, succeeded};
use crate::support::app::TestAccount;
use crate::support::client::{TokenClient, send};
use crate::support::prelude::*;

/// A node, and a token of a private namespace `ci` on it.
pub(super) async fn world() -> (World, TestAccount) {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let token = account.private("ci").await.expose().to_owned();
    (World { app, token }, account)
}

pub(super) async fn run(world: &World, arguments: &[&str]) -> Output {
    let mut command = world.command(arguments);
    command.env("LOCKABLE_NAMESPACE", "ci");
    super::client_world::output(command).await
}

/// A request for a lock of `ci` through version 2.
fn request(world: &World, name: &str, body: &Value) -> RequestBuilder {
    let path = format!("/v2/namespaces/ci/locks/{name}/acquire");
    let client = TokenClient::new(world.app.anonymous(), world.token.clone());
    client.request(Method::POST, &path).json(body)
}

/// Takes a lock of `ci`, and returns the lease.
pub(super) async fn acquire(world: &World, name: &str, body: Value) -> Value {
    let answer = send(request(world, name, &body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_shown_as_it_is() {
    let (world, _) = world().await;
    let free = run(&world, &["status", "nightly"]).await;
    failed(&free, 1);
    assert_eq!(
        String::from_utf8(free.stdout).unwrap(),
        "lock       nightly\nnamespace  ci\nstate      free\n"
    );
    let body = json!({ "holder": "host1\u{202e}:4711", "metadata": { "run": 7 } });
    let lease = acquire(&world, "nightly", body).await;
    let held = succeeded(&run(&world, &["status", "nightly"]).await);
    let token = lease["fencing_token"].to_string();
    for (name, value) in [
        ("state", "held"),
        ("mode", "exclusive"),
        ("holder", "host1\\u{202e}:4711"),
        ("fencing token", &token),
        ("lease id", lease["lease_id"].as_str().unwrap()),
        ("metadata", "{\"run\":7}"),
    ] {
        assert!(
            held.contains(&format!("\n{name:13}  {value}\n")),
            "{name}: {held}"
        );
    }
    let as_json = succeeded(&run(&world, &["status", "nightly", "--json"]).await);
    let shown: Value = serde_json::from_str(&as_json).unwrap();
    assert_eq!(shown["leases"][0]["fencing_token"], lease["fencing_token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_permits_and_all_who_wait_are_shown() {
    let (world, _) = world().await;
    for holder in ["a", "b"] {
        acquire(&world, "pool", json!({ "limit": 2, "holder": holder })).await;
    }
    let wait = json!({ "limit": 2, "holder": "c", "wait_ms": 60_000 });
    let waiting = tokio::spawn(send(request(&world, "pool", &wait)));
    let held = eventually("somebody waits", async || {
        let said = succeeded(&run(&world, &["status", "pool"]).await);
        said.contains("1 waiting").then_some(said)
    })
    .await;
    for part in [
        "semaphore of 2",
        "\nSLOT  HOLDER",
        "\n0     a",
        "\n1     b",
        "\nPOSITION  ",
    ] {
        assert!(held.contains(part), "{part}: {held}");
    }
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_locks_of_a_namespace_are_listed() {
    let (world, account) = world().await;
    for name in ["deploy%2Fweb", "deploy%2Fdb", "nightly"] {
        acquire(&world, name, json!({ "holder": "host1:4711" })).await;
    }
    let all = succeeded(&run(&world, &["list"]).await);
    let names: Vec<&str> = all
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["NAME", "deploy/db", "deploy/web", "nightly"]);
    let some = succeeded(&run(&world, &["list", "--prefix", "deploy/", "--json"]).await);
    let names: Vec<Value> = some
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["name"].clone())
        .collect();
    assert_eq!(names, ["deploy/db", "deploy/web"]);
    // The token's namespace is the only one that it sees, and the public one is not listed.
    assert!(failed(&world.run(&["list"]).await, 77).contains("LOCKABLE_NAMESPACE"));
    assert!(failed(&world.run(&["status", "nightly"]).await, 77).contains("\"public\""));
    let public = account.token().await;
    let mut command = world.command(&["list"]);
    command.env("LOCKABLE_AUTH_TOKEN", public.expose());
    assert!(failed(&super::client_world::output(command).await, 77).contains("not listed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_many_pages_is_whole() {
    let (world, _) = world().await;
    // More than a page, without as many requests.
    let insert = "INSERT INTO locks SELECT (jsonb_populate_record(lock, jsonb_build_object(
            'name', lpad(number::text, 5, '0')))).*
        FROM locks lock, generate_series(1, 2100) number WHERE lock.name = 'first'";
    acquire(&world, "first", json!({})).await;
    sqlx::query(insert)
        .execute(&world.app.db.pool)
        .await
        .unwrap();
    let said = succeeded(&run(&world, &["list", "--json"]).await);
    let names: Vec<String> = said
        .lines()
        .map(|line| {
            let lock: Value = serde_json::from_str(line).unwrap();
            lock["name"].as_str().unwrap().to_owned()
        })
        .collect();
    let mut expected: Vec<String> = (1..=2100).map(|number| format!("{number:05}")).collect();
    expected.push("first".to_owned());
    assert_eq!(names, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_another_account_a_public_lock_is_held_and_nothing_else() {
    let app = TestApp::start().await;
    let (one, other) = (app.account("business").await, app.account("hobbyist").await);
    let (one, other) = (one.token().await, other.token().await);
    let world = World {
        app,
        token: one.expose().to_owned(),
    };
    succeeded(&world.run(&["acquire", "nightly"]).await);
    let own = succeeded(&world.run(&["status", "nightly"]).await);
    assert!(own.contains("fencing token  "), "{own}");
    let mut command = world.command(&["status", "nightly"]);
    command.env("LOCKABLE_AUTH_TOKEN", other.expose());
    assert_eq!(
        succeeded(&super::client_world::output(command).await),
        "lock       nightly\nnamespace  public\nstate      held\n\
         holder     not shown: another account\n"
    );
}

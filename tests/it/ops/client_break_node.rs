//! `lockable break` against a node.

use std::process::Output;

use lockable::tokens::Scope;

use super::client_status_node::{acquire, run, world};
use super::client_world::World;
use super::{failed, succeeded};

/// Runs a break in `ci` with a token of scope `manage`.
async fn break_lock(world: &World, token: &str, more: &[&str]) -> Output {
    let arguments = [&["break", "nightly", "--reason", "stuck", "--yes"], more].concat();
    let mut command = world.command(&arguments);
    command
        .env("LOCKABLE_NAMESPACE", "ci")
        .env("LOCKABLE_AUTH_TOKEN", token);
    super::client_world::output(command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_broken_once_and_the_next_one_never() {
    let (world, account) = world().await;
    let (_, manage) = account.token_with("ci", Scope::Manage, None).await;
    let manage = manage.expose();
    failed(&break_lock(&world, manage, &[]).await, 1);
    let body = serde_json::json!({ "holder": "host1:4711" });
    let first = acquire(&world, "nightly", body.clone()).await;
    let token = first["fencing_token"].to_string();
    // The scope of the token decides.
    let said = failed(&break_lock(&world, &world.token, &[]).await, 77);
    assert!(said.contains("scope manage"), "{said}");
    failed(&run(&world, &["heartbeat", "nightly"]).await, 1);
    succeeded(&run(&world, &["status", "-q", "nightly"]).await);
    let id = first["lease_id"].as_str().unwrap();
    let broken = format!("broken: fencing token {token}, lease id {id}\n");
    let output = break_lock(&world, manage, &[]).await;
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("of host1:4711"),
        "{output:?}"
    );
    assert_eq!(succeeded(&output), broken);
    failed(&run(&world, &["status", "-q", "nightly"]).await, 1);
    // Sent again, it answers as at first, and does not hit the next holder.
    acquire(&world, "nightly", body).await;
    let again = break_lock(&world, manage, &["--fencing-token", &token]).await;
    assert_eq!(succeeded(&again), broken);
    succeeded(&run(&world, &["status", "-q", "nightly"]).await);
    // One that there never was.
    failed(
        &break_lock(&world, manage, &["--fencing-token", "999999"]).await,
        1,
    );
    succeeded(&break_lock(&world, manage, &["--all"]).await);
    failed(&run(&world, &["status", "-q", "nightly"]).await, 1);
}

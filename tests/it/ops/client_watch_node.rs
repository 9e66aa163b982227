//! `lockable watch` against a node.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::client_status_node::{acquire, run, world};
use super::client_watch::Watch;
use super::succeeded;

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_printed_and_can_be_gone_on_behind() {
    let (world, _) = world().await;
    let watch = |arguments: &[&str]| {
        let mut command = world.command(&[&["watch"], arguments].concat());
        command.env("LOCKABLE_NAMESPACE", "ci");
        Watch::start(command)
    };
    let one = watch(&["nightly"]);
    // The state, at first: from now on nothing is missed.
    let lines = one.lines(2).await;
    assert!(lines[1].ends_with("  state     nightly  free"), "{lines:?}");
    let all = watch(&["--json", "--after", "0"]);
    let lease = acquire(&world, "nightly", json!({ "holder": "host1:4711" })).await;
    let id = lease["lease_id"].as_str().unwrap();
    succeeded(&run(&world, &["release", "nightly", "--lease-id", id]).await);
    let lines = all.lines(2).await;
    let events: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events[0]["event"], "granted");
    assert_eq!(events[1]["event"], "released");
    assert_eq!(events[1]["fencing_token"], lease["fencing_token"]);
    assert_eq!(all.end(Signal::SIGINT).await.0, Some(130));
    // Behind the first event there is the second.
    let rest = watch(&["--json", "--after", &events[0]["id"].to_string()]);
    assert_eq!(rest.lines(1).await, lines[1..2]);
    let token = &lease["fencing_token"];
    let lines = one.lines(4).await;
    let has = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(
        has(&format!(
            "  granted   nightly  to host1:4711  (fencing token {token}, waited "
        )),
        "{lines:?}"
    );
    assert!(has(&format!(
        "  released  nightly  by host1:4711  (fencing token {token}, held "
    )));
    assert_eq!(one.end(Signal::SIGTERM).await.0, Some(143));
}

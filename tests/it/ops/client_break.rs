//! `lockable break`, against a service that answers as it is told.

use serde_json::{Value, json};

use super::client_script::{Script, Seen, json as answer, lease, lock};
use super::{failed, succeeded};

const LEASE_ID: &str = "01926d0e-5b7a-4c5e-9a52-7ad4b1f8a0c1";

/// A service with this lock, which answers a break with this.
async fn service(lock: Value, status: u16, broken: Value) -> Script {
    Script::new(move |_, seen| {
        if seen.line.starts_with("GET") {
            answer(200, &lock)
        } else {
            answer(status, &broken)
        }
    })
    .await
}

async fn held() -> Script {
    let broken = json!({ "broken": [{ "lease_id": LEASE_ID, "fencing_token": 42 }] });
    service(lock("nightly", &[lease(42, "host1:4711")]), 200, broken).await
}

/// The bodies of the requests to break.
fn breaks(service: &Script) -> Vec<Value> {
    let requests = service.requests();
    let breaks = requests.iter().filter(|seen| seen.line.starts_with("POST"));
    breaks
        .map(|Seen { line, body, .. }| {
            assert!(line.ends_with("/locks/nightly/break"), "{line}");
            serde_json::from_str(body).unwrap()
        })
        .collect()
}

const BREAK: [&str; 4] = ["break", "nightly", "--reason", "stuck"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&BREAK, more].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_lease_that_was_shown_is_broken() {
    let service = held().await;
    let output = service.run(&with(&["--yes", "--namespace", "ci"])).await;
    assert_eq!(
        succeeded(&output),
        format!("broken: fencing token 42, lease id {LEASE_ID}\n")
    );
    let shown = String::from_utf8(output.stderr).unwrap();
    assert!(
        shown.starts_with("lock           nightly\nnamespace      ci\n"),
        "{shown}"
    );
    assert!(
        shown.ends_with(
            "This breaks the lease with the fencing token 42 of host1:4711 (4 min 30 s \
             remaining).\n"
        ),
        "{shown}"
    );
    assert_eq!(
        service.lines(),
        [
            "GET /v2/namespaces/ci/locks/nightly",
            "POST /v2/namespaces/ci/locks/nightly/break",
        ]
    );
    assert_eq!(
        breaks(&service),
        [json!({ "reason": "stuck", "fencing_token": 42 })]
    );
    let as_json = succeeded(&service.run(&with(&["--yes", "--json"])).await);
    assert_eq!(
        serde_json::from_str::<Value>(&as_json).unwrap(),
        json!({ "broken": [{ "lease_id": LEASE_ID, "fencing_token": 42 }] })
    );
    assert_eq!(as_json.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_on_a_terminal() {
    let service = held().await;
    for (typed, is_broken) in [
        ("y\n", true),
        ("YES\n", true),
        ("n\n", false),
        ("\n", false),
        ("maybe\n", false),
        ("\u{4}", false),
    ] {
        let before = breaks(&service).len();
        let (code, shown) = service.run_on_terminal(&BREAK, 80, typed).await;
        assert_eq!(code, Some(i32::from(!is_broken)), "{typed:?}: {shown}");
        assert!(shown.contains("holder         host1:4711\n"), "{shown}");
        assert!(shown.contains("Break it? [y/N] "), "{shown}");
        assert_eq!(shown.contains("nothing was broken"), !is_broken, "{shown}");
        assert_eq!(breaks(&service).len(), before + usize::from(is_broken));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_nothing_is_broken_unasked() {
    let service = held().await;
    let said = failed(&service.run(&BREAK).await, 2);
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(service.lines(), [""; 0]);
    for arguments in [
        &["break", "nightly", "--yes"][..],
        &with(&["--yes", "--all", "--fencing-token", "1"]),
        &with(&["--yes", "--all", "--lease-id", LEASE_ID]),
        &with(&["--yes", "--fencing-token", "1", "--lease-id", LEASE_ID]),
        &with(&["--yes", "--fencing-token", "-1"]),
        &with(&["--yes", "--lease-id", "x"]),
        &["break", "..", "--yes", "--reason", "x"],
    ] {
        failed(&service.run(arguments).await, 2);
    }
    assert_eq!(service.lines(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_may_be_named() {
    let service = held().await;
    for (option, value, field) in [
        ("--fencing-token", "41", json!({ "fencing_token": 41 })),
        ("--fencing-token", "42", json!({ "fencing_token": 42 })),
        ("--lease-id", LEASE_ID, json!({ "lease_id": LEASE_ID })),
    ] {
        let output = service.run(&with(&["-y", option, value])).await;
        succeeded(&output);
        let shown = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            shown.contains("not among the live ones"),
            value == "41",
            "{shown}"
        );
        let mut expected = field;
        expected["reason"] = json!("stuck");
        assert_eq!(breaks(&service).pop(), Some(expected));
    }
    let output = service.run(&with(&["-y", "--all"])).await;
    succeeded(&output);
    assert_eq!(
        breaks(&service).pop(),
        Some(json!({ "reason": "stuck", "all": true }))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_lock_is_not_broken() {
    let service = service(lock("nightly", &[]), 200, json!({ "broken": [] })).await;
    for more in [&["-y"][..], &["-y", "--all"]] {
        let said = failed(&service.run(&with(more)).await, 1);
        assert_eq!(
            said,
            "lockable: the lock \"nightly\" is free: there is nothing to break\n"
        );
    }
    assert_eq!(breaks(&service), [Value::Null; 0]);
    // One that was named may have ended, and a repetition is answered as at first.
    let said = failed(
        &service.run(&with(&["-y", "--fencing-token", "7"])).await,
        1,
    );
    assert!(
        said.ends_with("nothing was broken: the lease had ended\n"),
        "{said}"
    );
    assert_eq!(breaks(&service).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_leases_is_named() {
    let leases = [lease(42, "host1:4711"), lease(43, "host2:99")];
    let broken = json!({ "broken": [{ "lease_id": LEASE_ID, "fencing_token": 42 },
        { "lease_id": "x\u{202e}", "fencing_token": 43 }] });
    let service = service(lock("nightly", &leases), 200, broken).await;
    let said = failed(&service.run(&with(&["-y"])).await, 2);
    assert!(
        said.contains("2 leases hold the lock") && said.contains("--all"),
        "{said}"
    );
    assert_eq!(breaks(&service), [Value::Null; 0]);
    let output = service.run(&with(&["-y", "--all"])).await;
    let printed = succeeded(&output);
    assert_eq!(printed.lines().count(), 2);
    assert!(printed.ends_with("lease id x\\u{202e}\n"), "{printed}");
    let shown = String::from_utf8(output.stderr).unwrap();
    assert!(
        shown.contains("host2:99") && shown.contains("all 2 leases"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_are_not_shown_are_named() {
    let hidden = json!({ "namespace": "public", "name": "nightly", "state": "held" });
    let service = service(
        hidden,
        403,
        json!({ "code": "scope-required", "detail": "No." }),
    )
    .await;
    let said = failed(&service.run(&with(&["-y"])).await, 77);
    assert!(said.contains("--fencing-token"), "{said}");
    assert_eq!(breaks(&service), [Value::Null; 0]);
    let said = failed(
        &service.run(&with(&["-y", "--fencing-token", "42"])).await,
        77,
    );
    assert!(said.contains("403") && said.contains("No."), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_came_meanwhile_is_not_hit() {
    for (reason, said) in [("released", " (released)"), ("unknown", "")] {
        let problem = json!({ "code": "lease-lost", "reason": reason, "detail": "Gone." });
        let service = service(lock("nightly", &[lease(42, "a")]), 409, problem).await;
        let output = failed(&service.run(&with(&["-y"])).await, 1);
        let expected = format!("nothing was broken: the lease had ended{said}\n");
        assert!(output.ends_with(&expected), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_is_not_known_says_how_to_find_out() {
    let service = service(lock("nightly", &[lease(42, "a")]), 503, json!({})).await;
    let said = failed(&service.run(&with(&["-y"])).await, 69);
    assert!(
        said.contains("with --fencing-token 42 it may be sent again"),
        "{said}"
    );
}

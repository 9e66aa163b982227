//! `lockable status`, against a service that answers as it is told.

use std::process::Stdio;

use serde_json::{Value, json};

use super::client_script::{Script, TOKEN, lease, lock, text};
use super::client_world::{broken_outputs, end_of};
use super::{failed, succeeded};

#[tokio::test(flavor = "multi_thread")]
async fn held_and_free_are_exit_codes() {
    let service = Script::new(|_, seen| {
        let leases = if seen.line.contains("/held") {
            vec![lease(42, "host1:4711")]
        } else {
            Vec::new()
        };
        super::client_script::json(200, &lock("x", &leases))
    })
    .await;
    for arguments in [&["status"][..], &["status", "-q"], &["status", "--json"]] {
        let held = service.run(&[arguments, &["held"]].concat()).await;
        let free = service.run(&[arguments, &["free"]].concat()).await;
        assert_eq!((held.status.code(), free.status.code()), (Some(0), Some(1)));
        let is_quiet = arguments.contains(&"-q");
        assert_eq!(held.stdout.is_empty(), is_quiet);
        assert_eq!(free.stdout.is_empty(), is_quiet);
        assert!(held.stderr.is_empty() && free.stderr.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_is_named_by_its_namespace_and_its_escaped_name() {
    let service = Script::always(200, lock("x", &[])).await;
    let mut with_variable = service.command(&["status", "a/b c%"]);
    with_variable.env("LOCKABLE_NAMESPACE", "ci");
    failed(&with_variable.output().unwrap(), 1);
    failed(
        &service.run(&["status", "ä", "--namespace", "x-1"]).await,
        1,
    );
    let mut empty_variable = service.command(&["status", "n"]);
    empty_variable.env("LOCKABLE_NAMESPACE", "");
    failed(&empty_variable.output().unwrap(), 1);
    assert_eq!(
        service.lines(),
        [
            "GET /v2/namespaces/ci/locks/a%2Fb%20c%25",
            "GET /v2/namespaces/x-1/locks/%C3%A4",
            "GET /v2/namespaces/public/locks/n",
        ]
    );
    let credentials = service.requests()[0]
        .header("authorization")
        .map(str::to_owned);
    assert!(credentials.unwrap().starts_with("Basic "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_described_line_by_line() {
    let mut held = lock("nightly", &[lease(42, "host1:4711")]);
    held["leases"][0]["metadata"] = json!({ "run": 7 });
    held["leases"][0]["max_hold_ms"] = json!(3_600_000);
    held["queue_length"] = json!(2);
    held["queue"] = json!([
        { "position": 1, "mode": "exclusive", "holder": "host2:99", "waited_ms": 3200,
          "detached": false },
        { "position": 2, "mode": "shared", "holder": null, "waited_ms": 900, "detached": true },
    ]);
    let service = Script::always(200, held).await;
    let arguments = ["status", "nightly", "--namespace", "ci"];
    assert_eq!(
        succeeded(&service.run(&arguments).await),
        "\
lock           nightly
namespace      ci
state          held
mode           exclusive
holder         host1:4711
fencing token  42
lease id       01926d0e-5b7a-4c5e-9a52-7ad4b1f8a0c1
remaining      4 min 30 s
acquired       2026-11-27 05:00:00 UTC
expires        2026-11-27 05:05:00 UTC
hold limit     60 min
metadata       {\"run\":7}
queue          2 waiting

POSITION  HOLDER    MODE       WAITED
1         host2:99  exclusive  3.2 s
2         -         shared     900 ms (detached)
"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn several_leases_are_a_table_that_fits_the_terminal() {
    let permit = |slot: u64, holder: &str| {
        let mut permit = lease(40 + slot, holder);
        permit["slot"] = json!(slot);
        permit
    };
    let mut held = lock(
        "pool",
        &[
            permit(0, "host1:4711"),
            permit(2, "a-host-with-quite-a-long-name:1"),
        ],
    );
    held["mode"] = json!("semaphore");
    held["limit"] = json!(3);
    let service = Script::always(200, held).await;
    let said = succeeded(&service.run(&["status", "pool"]).await);
    let expected = "\
mode       semaphore of 3
leases     2

SLOT  HOLDER                           FENCING TOKEN  REMAINING   ACQUIRED
0     host1:4711                       40             4 min 30 s  2026-11-27 05:00:00 UTC
2     a-host-with-quite-a-long-name:1  42             4 min 30 s  2026-11-27 05:00:00 UTC
";
    assert!(said.ends_with(expected), "{said}");
    let (code, shown) = service.run_on_terminal(&["status", "pool"], 80, "").await;
    assert_eq!(code, Some(0));
    let widest = shown.lines().map(|line| line.chars().count()).max();
    assert_eq!(widest, Some(80), "{shown}");
    assert!(shown.contains("a-host-with-quite-a-l…  42"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_shown_is_not_invented() {
    let service = Script::always(
        200,
        json!({ "namespace": "public", "name": "nightly", "state": "held" }),
    )
    .await;
    assert_eq!(
        succeeded(&service.run(&["status", "nightly"]).await),
        "lock       nightly\nnamespace  public\nstate      held\n\
         holder     not shown: another account\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_labels_of_others_cannot_deceive() {
    let deceit = "x\u{202e}y\u{200b}\u{1b}[2J\nstate  free";
    let mut held = lock("x", &[lease(1, deceit)]);
    held["leases"][0]["metadata"] = json!({ "note": deceit });
    held["queue"] = json!([{ "position": 1, "mode": "exclusive", "holder": deceit }]);
    let service = Script::always(200, held.clone()).await;
    let said = succeeded(&service.run(&["status", "a\u{202e}b"]).await);
    assert!(said.starts_with("lock           a\\u{202e}b\n"), "{said}");
    assert!(
        said.contains("holder         x\\u{202e}y\\u{200b}\\u{1b}[2J\\u{a}state  free\n"),
        "{said}"
    );
    let as_json = succeeded(&service.run(&["status", "x", "--json"]).await);
    assert_eq!(serde_json::from_str::<Value>(&as_json).unwrap(), held);
    for text in [said, as_json] {
        let hidden = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{200b}".contains(c);
        assert!(!text.contains(hidden), "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_what_the_service_sent_on_one_line() {
    let sent = "{\n  \"state\": \"free\",\n  \"b\": 1, \"a\": [],\r\n  \"later\": null\n}\n";
    let service = Script::new(move |_, _| text(200, "application/json", sent)).await;
    let said = service.run(&["status", "x", "--json"]).await;
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        "{   \"state\": \"free\",   \"b\": 1, \"a\": [],    \"later\": null }\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_told_from_both() {
    for (status, code) in [
        (400, 77),
        (401, 77),
        (403, 77),
        (404, 77),
        (409, 77),
        (429, 69),
    ] {
        let problem = json!({ "code": "x", "title": "T", "detail": "Because\u{1b}." });
        let service = Script::always(status, problem).await;
        let said = failed(
            &service.run(&["status", "x", "--namespace", "ci"]).await,
            code,
        );
        assert!(said.contains("Because\\u{1b}"), "{said}");
        assert_eq!(said.contains("LOCKABLE_NAMESPACE"), status == 404, "{said}");
        assert!(!said.contains(TOKEN), "{said}");
    }
    let service = Script::new(|_, _| text(503, "text/html", "<h1>Down</h1>")).await;
    assert!(failed(&service.run(&["status", "x"]).await, 69).contains("503"));
    for body in [
        "<h1>Welcome</h1>",
        "{}",
        "{\"state\": \"unsure\"}",
        "[]",
        "null",
    ] {
        let service = Script::new(move |_, _| text(200, "text/html", body)).await;
        let said = failed(&service.run(&["status", "x"]).await, 77);
        assert!(said.contains("does not answer like a Lockable"), "{said}");
    }
    let service = Script::always(200, lock("x", &[])).await;
    for arguments in [
        &["status"][..],
        &["status", ".."],
        &["status", "a\tb"],
        &["status", "x", "--namespace", "../x"],
        &["status", "x", "--namespace", ""],
        &["status", "x", "-q", "--json"],
        &["status", "x", "--url", "nonsense"],
    ] {
        failed(&service.run(arguments).await, 2);
    }
    assert_eq!(service.lines(), [""; 0]);
    failed(
        &service
            .run(&["status", "x", "--url", "http://127.0.0.1:1"])
            .await,
        69,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_cannot_be_written() {
    let service = Script::always(200, lock("x", &[])).await;
    for (name, stdout) in broken_outputs() {
        let mut command = service.command(&["status", "x"]);
        let child = command.stdout(stdout).stderr(Stdio::null()).spawn();
        // Who reads no further has seen enough: the verdict stands.
        let expected = if name == "a full disk" { 74 } else { 1 };
        assert_eq!(end_of(child.unwrap()).await, Some(expected), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_with_standard_error_changes_no_code() {
    for (_, stderr) in broken_outputs() {
        let service = Script::always(401, json!({})).await;
        let mut command = service.command(&["status", "x"]);
        let child = command.stdout(Stdio::null()).stderr(stderr).spawn();
        assert_eq!(end_of(child.unwrap()).await, Some(77));
    }
}

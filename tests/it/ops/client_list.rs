//! `lockable list`, against a service that answers as it is told.

use std::process::Stdio;

use serde_json::{Value, json};

use super::client_script::{Script, json as answer, lease, lock, text};
use super::client_world::{broken_outputs, end_of};
use super::{failed, succeeded};

/// Two pages, and one that is unavailable behind them.
fn pages(number: usize) -> Value {
    let mut shared = lock("deploy/shared", &[lease(7, "a"), lease(8, "b")]);
    shared["mode"] = json!("shared");
    shared["leases"][1]["expires_in_ms"] = json!(7_500_000);
    shared["queue_length"] = json!(3);
    match number {
        0 => json!({
            "locks": [lock("deploy/web", &[lease(42, "host1:4711")]), shared],
            "next_cursor": "c/1=",
        }),
        _ => json!({ "locks": [lock("日本", &[lease(9, "")])], "next_cursor": null }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_make_one_table() {
    let service = Script::new(|number, _| answer(200, &pages(number))).await;
    let arguments = ["list", "--namespace", "ci", "--prefix", "a/ü &"];
    assert_eq!(
        succeeded(&service.run(&arguments).await),
        "\
NAME           HOLDER      MODE       FENCING TOKEN  REMAINING   WAITING
deploy/web     host1:4711  exclusive  42             4 min 30 s  0
deploy/shared  2 leases    shared     -              2 h 5 min   3
日本           -           exclusive  9              4 min 30 s  0
"
    );
    assert_eq!(
        service.lines(),
        [
            "GET /v2/namespaces/ci/locks?prefix=a%2F%C3%BC%20%26&limit=1000",
            "GET /v2/namespaces/ci/locks?prefix=a%2F%C3%BC%20%26&cursor=c%2F1%3D&limit=1000",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_lock_a_line() {
    let service = Script::new(|number, _| answer(200, &pages(number))).await;
    let said = succeeded(&service.run(&["list", "--json"]).await);
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut expected: Vec<Value> = Vec::new();
    for number in 0..2 {
        expected.extend(pages(number)["locks"].as_array().unwrap().clone());
    }
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lock_is_said_where_programs_do_not_read() {
    let service = Script::always(200, json!({ "locks": [], "next_cursor": null })).await;
    let output = service.run(&["list", "--namespace", "ci"]).await;
    assert_eq!(succeeded(&output), "");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "no lock is held in the namespace \"ci\"\n"
    );
    let output = service.run(&["list", "--prefix", "x\u{202e}"]).await;
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("\"x\\u{202e}\" is held")
    );
    let output = service.run(&["list", "--json"]).await;
    assert_eq!(succeeded(&output), "");
    assert!(output.stderr.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_terminal_cuts_names() {
    let service = Script::new(|_, _| {
        let name = "a-very-long-name/of-a-lock-that-somebody-has-taken\u{1b}[31m";
        let holder = "a-host-with-quite-a-long-name:4711";
        answer(
            200,
            &json!({ "locks": [lock(name, &[lease(42, holder)])], "next_cursor": null }),
        )
    })
    .await;
    let (code, shown) = service.run_on_terminal(&["list"], 80, "").await;
    assert_eq!(code, Some(0));
    assert!(
        shown.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
    assert!(shown.contains("…  a-host-"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    // Whole where it is no terminal.
    let said = succeeded(&service.run(&["list"]).await);
    assert!(said.contains("somebody-has-taken\\u{1b}[31m  a-host-with-quite-a-long-name:4711"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_too_many_requests_is_asked_again_when_it_says() {
    let service = Script::new(|number, _| {
        if number == 1 {
            let mut refusal = answer(429, &json!({ "code": "too-many-requests" }));
            let soon = "0".parse().unwrap();
            refusal.headers_mut().insert("retry-after", soon);
            return refusal;
        }
        answer(200, &pages(number))
    })
    .await;
    assert_eq!(succeeded(&service.run(&["list"]).await).lines().count(), 4);
    assert_eq!(service.lines().len(), 3);
    assert_eq!(service.lines()[1], service.lines()[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_on_the_way_leaves_what_was_fetched() {
    let service = Script::new(|number, _| match number % 2 {
        0 => answer(200, &pages(0)),
        _ => text(503, "text/plain", ""),
    })
    .await;
    for arguments in [&["list"][..], &["list", "--json"]] {
        let output = service.run(arguments).await;
        assert!(failed(&output, 69).contains("503"));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("deploy/web"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listed_is_said() {
    let problem = json!({ "code": "not-found", "detail": "There is no such address in the API." });
    let service = Script::always(404, problem).await;
    let said = failed(&service.run(&["list"]).await, 77);
    assert!(
        said.contains("\"public\"") && said.contains("LOCKABLE_NAMESPACE"),
        "{said}"
    );
    let service = Script::always(200, json!({ "locks": [{}], "next_cursor": null })).await;
    failed(&service.run(&["list"]).await, 77);
    // The same page again and again.
    let service = Script::new(|_, _| answer(200, &pages(0))).await;
    assert_eq!(
        succeeded(&service.run(&["list", "--json"]).await)
            .lines()
            .count(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_more_is_fetched_for_a_reader_that_has_gone() {
    for (name, stdout) in broken_outputs() {
        let service = Script::new(|number, _| {
            let mut page = pages(0);
            page["next_cursor"] = json!(number.to_string());
            answer(200, &page)
        })
        .await;
        let mut command = service.command(&["list", "--json"]);
        let child = command
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let expected = if name == "a full disk" { 74 } else { 0 };
        assert_eq!(end_of(child).await, Some(expected), "{name}");
        assert_eq!(service.lines().len(), 1);
    }
}

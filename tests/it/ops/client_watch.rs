//! `lockable watch`, against a service that streams as it is told.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::client_script::{Script, json as answer, text};
use super::client_world::{broken_outputs, end_of, full_pipe, pid, send};
use super::failed;
use crate::support::prelude::*;

/// How a stream goes on behind what it says.
#[derive(Clone)]
enum End {
    /// It stays open and says nothing more.
    Open,
    Closed,
    /// The connection breaks when it is told to.
    BrokenAt(Arc<Notify>),
}

fn event_stream(said: &str, end: End) -> Response {
    let said = stream::iter([Ok(Bytes::from(said.to_owned()))]);
    let body = match end {
        End::Open => Body::from_stream(said.chain(stream::pending())),
        End::Closed => Body::from_stream(said),
        End::BrokenAt(cut) => {
            let broken = stream::once(async move {
                cut.notified().await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(said.chain(broken))
        }
    };
    Response::builder()
        .header("content-type", "text/event-stream; charset=utf-8")
        .body(body)
        .unwrap()
}

fn event(id: u64, kind: &str) -> Value {
    json!({
        "id": id, "event": kind, "at": format!("2026-11-27T12:03:{:02}.5Z", id % 60),
        "namespace": "ci", "name": "nightly", "lease_id": null, "fencing_token": 42,
        "holder": "host1:4711", "token_label": null,
        "waited_ms": if kind == "granted" { json!(1234) } else { Value::Null },
        "held_ms": if kind == "granted" { Value::Null } else { json!(270_000) }, "reason": null,
    })
}

fn sent(id: u64, kind: &str) -> String {
    format!("id: {id}\nevent: {kind}\ndata: {}\n\n", event(id, kind))
}

/// The command, running. Killed when dropped.
pub(super) struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Watch {
    pub(super) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for line in output.lines().map_while(Result::ok) {
                    lines.lock().unwrap().push(line);
                }
            }
        });
        Self { child, lines }
    }

    /// The lines of its output, once there are as many.
    pub(super) async fn lines(&self, count: usize) -> Vec<String> {
        let lines = || self.lines.lock().unwrap().clone();
        eventually("it prints", async || {
            Some(lines()).filter(|lines| lines.len() >= count)
        })
        .await
    }

    /// Ends it by this signal. Its exit code, and all that it has said on standard error.
    pub(super) async fn end(mut self, signal: Signal) -> (Option<i32>, String) {
        send(pid(&self.child), signal);
        let code = eventually("it ends", async || self.child.try_wait().unwrap()).await;
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        (code.code(), said)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_lines_until_it_is_interrupted() {
    let service = Script::new(|_, _| {
        let said = [
            sent(4, "granted"),
            ": still here\n\n".to_owned(),
            sent(5, "released"),
            "event: state\ndata: {\"name\": \"nightly\", \"state\": \"free\", \
             \"at\": \"2026-11-27T12:03:05Z\"}\n\n"
                .to_owned(),
            "event: gap\nid: 9\ndata: {\"at\": \"2026-11-28T00:00:00Z\", \
             \"reason\": \"too many\"}\n\n"
                .to_owned(),
        ];
        event_stream(&said.concat(), End::Open)
    })
    .await;
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let command = service.command(&["watch", "nightly", "--namespace", "ci"]);
        let watch = Watch::start(command);
        let lines = watch.lines(6).await;
        assert_eq!(
            lines,
            [
                "2026-11-27 UTC",
                "12:03:04  granted   nightly  to host1:4711  (fencing token 42, waited 1.2 s)",
                "12:03:05  released  nightly  by host1:4711  (fencing token 42, held 4 min 30 s)",
                "12:03:05  state     nightly  free",
                "2026-11-28 UTC",
                "00:00:00  gap       events are missing here: too many",
            ]
        );
        assert_eq!(watch.end(signal).await, (Some(code), String::new()));
    }
    let request = &service.requests()[0];
    assert_eq!(request.line, "GET /v2/namespaces/ci/locks/nightly/events");
    assert_eq!(request.header("accept"), Some("text/event-stream"));
    assert_eq!(request.header("last-event-id"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_one_object_a_line() {
    let service = Script::new(|_, _| {
        let said = [
            sent(1, "granted"),
            "event: state\ndata: {\"state\": \"free\",\ndata:  \"name\": \"n\u{202e}\"}\n\n"
                .to_owned(),
        ];
        event_stream(&said.concat(), End::Open)
    })
    .await;
    let command = service.command(&["watch", "--json", "--namespace", "ci", "--after", "77"]);
    let watch = Watch::start(command);
    let lines = watch.lines(2).await;
    let granted: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(granted, event(1, "granted"));
    assert_eq!(
        lines[1],
        "{\"event\":\"state\",\"state\": \"free\",  \"name\": \"n\\u202e\"}"
    );
    watch.end(Signal::SIGINT).await;
    let request = &service.requests()[0];
    assert_eq!(request.line, "GET /v2/namespaces/ci/events");
    assert_eq!(request.header("last-event-id"), Some("77"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_behind_the_last_event_on_a_new_connection() {
    let cut = Arc::new(Notify::new());
    let end = End::BrokenAt(Arc::clone(&cut));
    let service = Script::new(move |number, _| match number {
        // The id of an event that was not sent whole does not count.
        0 => event_stream(
            &format!("{}id: 2\nevent: gran", sent(1, "granted")),
            end.clone(),
        ),
        1 => answer(503, &json!({ "detail": "Starting." })),
        // An id alone: as far as the stream has come.
        2 => event_stream("id: 5\n\n", End::Closed),
        3 => event_stream(&sent(6, "released"), End::Closed),
        _ => event_stream("", End::Open),
    })
    .await;
    let watch = Watch::start(service.command(&["watch", "--json"]));
    watch.lines(1).await;
    cut.notify_one();
    let lines = watch.lines(2).await;
    assert!(lines[1].contains("released"), "{lines:?}");
    eventually("it is connected again", async || {
        (service.lines().len() == 5).then_some(())
    })
    .await;
    let (code, said) = watch.end(Signal::SIGINT).await;
    assert_eq!(code, Some(130));
    let said: Vec<&str> = said.lines().collect();
    assert!(
        said[0].contains("broke off") && said[0].ends_with("; connecting again"),
        "{said:?}"
    );
    // Said once an outage.
    assert_eq!(said[1], "lockable: connected again", "{said:?}");
    assert!(
        said[2].contains("the service closed the stream"),
        "{said:?}"
    );
    assert_eq!(said[3], said[1]);
    let ids: Vec<_> = service
        .requests()
        .iter()
        .map(|seen| seen.header("last-event-id").map(str::to_owned))
        .collect();
    let ids: Vec<_> = ids.iter().map(Option::as_deref).collect();
    assert_eq!(ids, [None, Some("1"), Some("1"), Some("5"), Some("6")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_missing_is_said() {
    let service = Script::new(|number, _| match number {
        0 => event_stream(": hello\n\n", End::Closed),
        _ => event_stream(&sent(1, "granted"), End::Open),
    })
    .await;
    let watch = Watch::start(service.command(&["watch"]));
    watch.lines(2).await;
    let (_, said) = watch.end(Signal::SIGINT).await;
    assert!(
        said.contains("what happened meanwhile is not shown"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_closes_each_stream_is_not_asked_without_a_pause() {
    let service = Script::new(|number, _| {
        if number < 5 {
            return event_stream(": hello\n\nretry: 0\n\n", End::Closed);
        }
        answer(401, &json!({ "detail": "Revoked." }))
    })
    .await;
    let began = Instant::now();
    let output = service.run(&["watch"]).await;
    assert!(failed(&output, 77).contains("Revoked."));
    let pauses = Duration::from_millis(50 + 100 + 200 + 400 + 800);
    assert!(began.elapsed() >= pauses, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_says_how_long_it_is_left_alone() {
    let service = Script::new(|number, _| match number {
        0 => event_stream(
            &format!("retry: 700\n\n{}", sent(1, "granted")),
            End::Closed,
        ),
        _ => answer(403, &json!({ "code": "scope-required" })),
    })
    .await;
    let began = Instant::now();
    failed(&service.run(&["watch"]).await, 77);
    assert!(began.elapsed() >= Duration::from_millis(700));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_end_it() {
    for (status, code) in [(401, 77), (403, 77), (404, 77), (400, 77)] {
        let service = Script::always(status, json!({ "detail": "Because." })).await;
        assert!(failed(&service.run(&["watch", "n"]).await, code).contains("Because"));
        assert_eq!(service.lines().len(), 1);
    }
    let service = Script::new(|_, _| text(200, "text/html", "<h1>Welcome</h1>")).await;
    let said = failed(&service.run(&["watch"]).await, 77);
    assert!(said.contains("does not answer like a Lockable"), "{said}");
    for arguments in [
        &["watch", ".."][..],
        &["watch", "n", "--after", "x"],
        &["watch", "--namespace", "a/b"],
    ] {
        failed(&service.run(arguments).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_never_reached_is_given_up() {
    let service = Script::always(503, json!({})).await;
    let began = Instant::now();
    let said = failed(&service.run(&["watch"]).await, 69);
    assert!(began.elapsed() >= Duration::from_secs(10));
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_gone_ends_it_quietly() {
    for (name, stdout) in broken_outputs() {
        let service = Script::new(|_, _| event_stream(&sent(1, "granted"), End::Open)).await;
        let mut command = service.command(&["watch"]);
        let mut child = command
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let is_full = name == "a full disk";
        assert_eq!(
            end_of(child).await,
            Some(if is_full { 74 } else { 0 }),
            "{name}"
        );
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(said.is_empty(), !is_full, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_does_not_keep_it() {
    let service = Script::new(|_, _| event_stream(&sent(1, "granted"), End::Open)).await;
    let (_reader, stdout) = full_pipe();
    let mut command = service.command(&["watch"]);
    let child = command
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it is connected", async || {
        (!service.lines().is_empty()).then_some(())
    })
    .await;
    send(pid(&child), Signal::SIGINT);
    assert_eq!(end_of(child).await, Some(130));
}

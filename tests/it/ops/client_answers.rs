//! `lockable run` and the answers to requests that wait: of older services, of nodes that stop, of
//! services where too many wait already.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};

use super::client_world::*;
use super::failed;
use crate::support::process::lockable;

/// A service that answers acquires as it is told, by their number, and everything else `true`.
struct Scripted {
    url: String,
    acquires: Arc<Mutex<Vec<(Instant, String)>>>,
}

#[derive(Clone, Copy)]
struct Answer {
    status: u16,
    body: &'static str,
    retry_after: Option<&'static str>,
    expires_in_ms: &'static str,
}

const fn answer(status: u16, body: &'static str) -> Answer {
    Answer {
        status,
        body,
        retry_after: None,
        expires_in_ms: "60000",
    }
}

const FALSE: Answer = answer(200, r#"{"response": false}"#);
const GRANTED: Answer = answer(200, r#"{"response": true}"#);
const GRANTED_LONG_AGO: Answer = Answer {
    expires_in_ms: "0",
    ..GRANTED
};
const STOPPING: Answer = Answer {
    retry_after: Some("0"),
    ..answer(503, r#"{"code": "shutting-down", "detail": "Stopping."}"#)
};
const TOO_MANY: Answer = answer(
    429,
    r#"{"code": "too-many-waiters", "detail": "Too many."}"#,
);

impl Scripted {
    async fn new(script: impl Fn(usize, bool) -> Answer + Clone + Send + Sync + 'static) -> Self {
        let acquires = Arc::new(Mutex::new(Vec::new()));
        let handler = {
            let acquires = Arc::clone(&acquires);
            move |uri: Uri| {
                let query = uri.query().unwrap_or_default().to_owned();
                let response = if uri.path().starts_with("/v1/acquire/") {
                    let mut acquires = acquires.lock().unwrap();
                    let response = script(acquires.len(), query.contains("wait_ms"));
                    acquires.push((Instant::now(), query));
                    response
                } else {
                    GRANTED
                };
                std::future::ready(rendered(response))
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, acquires }
    }

    /// Runs `lockable run` to its end, and returns its exit code and what it says.
    async fn run(&self, options: &[&str]) -> (Option<i32>, String) {
        let mut command = lockable();
        command
            .args([&["run"], options, &["job", "--", "sh", "-c", "exit 7"]].concat())
            .env("LOCKABLE_URL", &self.url)
            .env(
                "LOCKABLE_AUTH_TOKEN",
                "b9164069-49c1-45ec-a05c-025d8d84091f",
            );
        let output = output(command).await;
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    }

    fn acquires(&self) -> Vec<(Instant, String)> {
        self.acquires.lock().unwrap().clone()
    }

    /// True for each acquire that would have waited.
    fn waits(&self) -> Vec<bool> {
        let acquires = self.acquires();
        acquires
            .iter()
            .map(|(_, query)| query.contains("wait_ms"))
            .collect()
    }

    /// The lease ids of the acquires, without repetitions.
    fn lease_ids(&self) -> usize {
        let mut ids: Vec<String> = self
            .acquires()
            .into_iter()
            .map(|(_, query)| {
                let id = query.split('&').find(|part| part.starts_with("lease_id="));
                id.unwrap().to_owned()
            })
            .collect();
        ids.sort();
        ids.dedup();
        ids.len()
    }
}

fn rendered(answer: Answer) -> Response {
    let mut response = Response::builder().status(answer.status);
    let headers = [
        ("retry-after", answer.retry_after),
        ("lockable-fencing-token", Some("1")),
        ("lockable-lease-ms", Some("60000")),
        ("lockable-expires-in-ms", Some(answer.expires_in_ms)),
    ];
    for (name, value) in headers {
        if let Some(value) = value {
            response = response.header(name, value);
        }
    }
    response
        .body(answer.body.to_owned())
        .unwrap()
        .into_response()
}

/// A service from before there was waiting answers 501, or does not know the parameter.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_service_is_polled() {
    for status in [501, 400] {
        let service = Scripted::new(move |number, waits| match number {
            _ if waits => answer(status, r#"{"code": "older", "detail": "What?"}"#),
            0..4 => FALSE,
            _ => GRANTED,
        })
        .await;
        assert_eq!(service.run(&[]).await, (Some(7), String::new()));
        assert_eq!(service.waits(), [true, false, false, false, false]);
    }
    // What is wrong with the request itself is said.
    let service = Scripted::new(|_, _| answer(400, r#"{"detail": "Wrong."}"#)).await;
    let (code, said) = service.run(&[]).await;
    assert_eq!(code, Some(77));
    assert!(said.contains("Wrong."), "{said}");
    assert_eq!(service.waits(), [true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_too_many_wait_it_tries_again() {
    let service = Scripted::new(|number, _| [TOO_MANY, TOO_MANY, GRANTED][number]).await;
    let (code, said) = service.run(&[]).await;
    assert_eq!(code, Some(7));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(service.waits(), [true; 3]);
    // The last request does not wait, so it has a verdict.
    let service = Scripted::new(|_, waits| if waits { TOO_MANY } else { FALSE }).await;
    assert_eq!(
        service.run(&["-qw", "0.3"]).await,
        (Some(75), String::new())
    );
    assert_eq!(service.waits().last(), Some(&false));
    // A command of one request has none.
    let mut command = lockable();
    command
        .args(["acquire", "job", "--wait", "5"])
        .env("LOCKABLE_URL", &service.url)
        .env(
            "LOCKABLE_AUTH_TOKEN",
            "b9164069-49c1-45ec-a05c-025d8d84091f",
        );
    assert!(failed(&output(command).await, 69).contains("Too many."));
}

/// A node that stops says `Retry-After: 0`: another one is asked at once, but none without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_is_asked_again_with_the_same_id_and_not_without_a_pause() {
    let service = Scripted::new(|number, _| if number < 8 { STOPPING } else { GRANTED }).await;
    let began = Instant::now();
    assert_eq!(service.run(&[]).await.0, Some(7));
    assert_eq!(service.waits(), [true; 9]);
    assert_eq!(service.lease_ids(), 1);
    // The pauses after every other answer grow from 100 ms, less at most a half.
    let pauses = Duration::from_millis(50 + 100 + 200 + 400);
    assert!(began.elapsed() >= pauses, "{:?}", service.acquires());
}

/// `false` before the wait is over: the service let the request not wait, and may never grant the
/// lock to this id.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_could_not_wait_is_repeated_with_an_id_of_its_own_after_a_pause() {
    let service = Scripted::new(|number, _| if number < 4 { FALSE } else { GRANTED }).await;
    let began = Instant::now();
    assert_eq!(service.run(&[]).await.0, Some(7));
    assert_eq!(service.waits(), [true; 5]);
    assert_eq!(service.lease_ids(), 5);
    let pauses = Duration::from_millis(50 + 100 + 200 + 400);
    assert!(began.elapsed() >= pauses, "{:?}", service.acquires());
}

/// After a machine slept while it waited, the lease of the answer may have ended: no command is run
/// under it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_has_ended_before_its_answer_was_read_is_not_used() {
    let answers = [GRANTED_LONG_AGO, GRANTED_LONG_AGO, GRANTED];
    let service = Scripted::new(move |number, _| answers[number]).await;
    assert_eq!(service.run(&[]).await, (Some(7), String::new()));
    assert_eq!(service.lease_ids(), 3);
    let service = Scripted::new(|_, _| GRANTED_LONG_AGO).await;
    assert_eq!(service.run(&["-qn"]).await, (Some(75), String::new()));
}

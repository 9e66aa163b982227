//! A service that answers requests of version 2 as a test tells it, and the client's commands
//! against it.

use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::Value;

use super::client_world::output;
use crate::support::process::lockable;

pub(super) const TOKEN: &str = "b9164069-49c1-45ec-a05c-025d8d84091f";

/// The service.
pub(super) struct Script {
    pub(super) url: String,
    requests: Arc<Mutex<Vec<Seen>>>,
}

/// A request that it has had.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Method, path and query, as they were sent.
    pub(super) line: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Script {
    /// Answers each request by its number and what it is.
    pub(super) async fn new(
        answer: impl Fn(usize, &Seen) -> Response + Clone + Send + Sync + 'static,
    ) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let handler = {
            let requests = Arc::clone(&requests);
            async move |request: Request| {
                let line = format!("{} {}", request.method(), request.uri());
                let (head, body) = request.into_parts();
                let body = to_bytes(body, 1 << 20).await.unwrap();
                let seen = Seen {
                    line,
                    headers: head.headers,
                    body: String::from_utf8(body.into()).unwrap(),
                };
                let mut requests = requests.lock().unwrap();
                let response = answer(requests.len(), &seen);
                requests.push(seen);
                response
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, requests }
    }

    /// Answers every request so.
    pub(super) async fn always(status: u16, body: Value) -> Self {
        Self::new(move |_, _| json(status, &body)).await
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = lockable();
        command
            .args(arguments)
            .env("LOCKABLE_URL", &self.url)
            .env("LOCKABLE_AUTH_TOKEN", TOKEN);
        command
    }

    /// Runs a command to its end.
    pub(super) async fn run(&self, arguments: &[&str]) -> Output {
        output(self.command(arguments)).await
    }

    /// Runs a command to its end on a terminal that is so wide, on which this is typed. Its exit
    /// code, and what the terminal shows.
    pub(super) async fn run_on_terminal(
        &self,
        arguments: &[&str],
        columns: u16,
        typed: &str,
    ) -> (Option<i32>, String) {
        let mut terminal = Command::new("script");
        let line = format!(
            "stty cols {columns} -echo; exec \"$LOCKABLE\" {}",
            arguments.join(" ")
        );
        let inner = self.command(&[]);
        terminal
            .args(["-qec", &line, "/dev/null"])
            .env("LOCKABLE", inner.get_program())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => terminal.env(name, value),
                None => terminal.env_remove(name),
            };
        }
        let typed = typed.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = terminal.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, typed.as_bytes()).unwrap();
            // Not closed before the end: that would be the end of the terminal.
            let output = child.wait_with_output().unwrap();
            drop(stdin);
            output
        });
        let output = output.await.unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), shown.replace("\r\n", "\n"))
    }

    pub(super) fn requests(&self) -> Vec<Seen> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests, without headers and bodies.
    pub(super) fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|seen| seen.line).collect()
    }
}

pub(super) fn json(status: u16, body: &Value) -> Response {
    text(status, "application/json", &body.to_string())
}

pub(super) fn text(status: u16, content_type: &str, body: &str) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Body::from(body.to_owned()))
        .unwrap()
}

/// A lease as the service describes it.
pub(super) fn lease(fencing_token: u64, holder: &str) -> Value {
    serde_json::json!({
        "namespace": "ci", "name": "nightly", "lease_id": "01926d0e-5b7a-4c5e-9a52-7ad4b1f8a0c1",
        "fencing_token": fencing_token, "mode": "exclusive", "limit": null, "slot": null,
        "lease_ms": 300_000, "expires_in_ms": 270_000, "max_hold_ms": null,
        "acquired_at": "2026-11-27T05:00:00.123Z", "expires_at": "2026-11-27T05:05:00.123Z",
        "waited_ms": 0, "holder": holder, "metadata": null,
    })
}

/// A lock as the service describes it.
pub(super) fn lock(name: &str, leases: &[Value]) -> Value {
    serde_json::json!({
        "namespace": "ci", "name": name,
        "state": if leases.is_empty() { "free" } else { "held" },
        "mode": if leases.is_empty() { Value::Null } else { "exclusive".into() },
        "limit": null, "leases": leases, "queue": [], "queue_length": 0,
    })
}

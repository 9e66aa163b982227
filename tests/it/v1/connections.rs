//! Bytes on a connection that no HTTP library would send, to the binary as it is shipped.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lockable::accounts::{self, NewAccount};
use lockable::audit::Actor;
use lockable::secret::Secret;
use lockable::tokens::{self, EmailConfirmation, NewToken, Scope};

use crate::support::client::Client;
use crate::support::prelude::*;

struct Wire {
    process: Process,
    db: Database,
    token: Secret,
}

impl Wire {
    async fn start() -> Self {
        let db = Database::create().await;
        let email = "ada@example.com".parse().unwrap();
        let new = NewAccount {
            email: &email,
            password: None,
            plan: "business",
            is_admin: false,
            email_verified: true,
        };
        let account_id = accounts::create(&db.pool, new, None).await.unwrap();
        let account = accounts::find(&db.pool, account_id).await.unwrap();
        let new = NewToken {
            label: "test",
            namespace: "public",
            scope: Scope::Locks,
            expires_at: None,
        };
        let (actor, confirmation) = (Actor::command("test"), EmailConfirmation::NotRequired);
        let (_, token) = tokens::create(&db.pool, &actor, &account, confirmation, &new)
            .await
            .unwrap();
        let url = db.url();
        let process = tokio::task::spawn_blocking(move || {
            Process::start(|command| {
                command.args(["--unsafe-database", "--database-url", &url]);
            })
        });
        Self {
            process: process.await.unwrap(),
            db,
            token,
        }
    }

    fn authorization(&self) -> String {
        format!(
            "Authorization: Basic {}",
            BASE64_STANDARD.encode(format!("{}:", self.token.expose()))
        )
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.process.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream
    }

    /// Sends these bytes on a new connection, and returns the status and all bytes until the
    /// service closes it; `None` if it is closed without an answer.
    async fn raw(&self, bytes: &[u8]) -> Option<(u16, String)> {
        let (mut stream, bytes) = (self.connect(), bytes.to_vec());
        tokio::task::spawn_blocking(move || {
            // The service may have answered and closed before it has read all of it.
            let _ = stream.write_all(&bytes);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let status = answer.split(' ').nth(1)?.parse().ok()?;
            Some((status, answer))
        })
        .await
        .unwrap()
    }

    /// Sends a whole request with this request line and these headers.
    async fn send(&self, first: &str, more: &str) -> Option<(u16, String)> {
        let head = format!(
            "{first}\r\nHost: x\r\nConnection: close\r\n{}\r\n{more}\r\n",
            self.authorization()
        );
        self.raw(head.as_bytes()).await
    }

    async fn status(&self, first: &str, more: &str) -> u16 {
        self.send(first, more)
            .await
            .unwrap_or_else(|| panic!("no answer to {first}"))
            .0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_are_answered_and_change_nothing() {
    let wire = Wire::start().await;
    for (first, more, expected) in [
        ("GET /v1/acquire/a b HTTP/1.1", "", &[400][..]),
        ("GET /v1/acquire/a\0b HTTP/1.1", "", &[400]),
        ("GET /v1/acquire/job", "", &[400]),
        ("GET /v1/acquire/job HTTP/9.9", "", &[400]),
        ("GET v1/acquire/job HTTP/1.1", "", &[400]),
        ("get /v1/acquire/job HTTP/1.1", "", &[405]),
        ("HEAD /v1/acquire/job HTTP/1.1", "", &[405]),
        ("G\u{7f}T /v1/acquire/job HTTP/1.1", "", &[400]),
        (
            "POST /v1/acquire/job HTTP/1.1",
            "Content-Length: -1\r\n",
            &[400],
        ),
        (
            "POST /v1/acquire/job HTTP/1.1",
            "Content-Length: 99999999999999999999\r\n",
            &[400],
        ),
        (
            "POST /v1/acquire/job HTTP/1.1",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            &[400],
        ),
        (
            "POST /v1/acquire/job HTTP/1.1",
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            &[400],
        ),
        (
            "POST /v1/acquire/job HTTP/1.1",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            &[400],
        ),
        // The service does not wait for a body that is announced and never sent.
        (
            "POST /v1/acquire/job HTTP/1.1",
            "Content-Length: 1000000000\r\n",
            &[400],
        ),
        ("GET /v1/acquire/job HTTP/1.1", "Bad Header: x\r\n", &[400]),
        ("GET /v1/acquire/job HTTP/1.1", "X: a\0b\r\n", &[400]),
    ] {
        let status = wire.status(first, more).await;
        assert!(expected.contains(&status), "{first:?} {more:?}: {status}");
    }
    // A name and a URL that are too long, and too many headers.
    let status = wire
        .status(
            &format!("GET /v1/acquire/{} HTTP/1.1", "a".repeat(1000)),
            "",
        )
        .await;
    assert_eq!(status, 400);
    for (path, more) in [
        (
            format!("/v1/acquire/{}", "a".repeat(200_000)),
            String::new(),
        ),
        (
            "/v1/acquire/job".to_owned(),
            format!("X-Large: {}\r\n", "x".repeat(200_000)),
        ),
        (
            "/v1/acquire/job".to_owned(),
            (0..1000).map(|n| format!("X-{n}: x\r\n")).collect(),
        ),
    ] {
        // The answer may be lost if the connection is closed while many bytes are still in flight.
        if let Some((status, _)) = wire.send(&format!("GET {path} HTTP/1.1"), &more).await {
            assert!([400, 414, 431].contains(&status), "{status}");
        }
    }
    assert_eq!(wire.db.value::<i64>("SELECT count(*) FROM locks").await, 0);
    for (first, body) in [
        (
            "GET http://elsewhere.example.com/v1/acquire/absolute HTTP/1.1",
            "",
        ),
        ("GET /v1/acquire/old HTTP/1.0", ""),
        (
            "POST /v1/acquire/empty HTTP/1.1",
            "Transfer-Encoding: chunked\r\n\r\n0\r\n",
        ),
        ("POST /v1/acquire/none HTTP/1.1", "Content-Length: 0\r\n"),
    ] {
        let (status, answer) = wire.send(first, body).await.unwrap();
        assert!(
            status == 200 && answer.ends_with("{\"response\": true}"),
            "{first}: {answer}"
        );
    }
    assert_eq!(wire.db.value::<i64>("SELECT count(*) FROM locks").await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_hold_up_nobody() {
    let wire = Wire::start().await;
    let mut open = Vec::new();
    for at in 0..200 {
        let mut stream = wire.connect();
        let head = "GET /v1/acquire/half HTTP/1.1\r\nHost: x\r\n".as_bytes();
        stream.write_all(&head[..at % head.len()]).unwrap();
        open.push(stream);
    }
    assert_eq!(wire.status("GET /v1/acquire/job HTTP/1.1", "").await, 200);
    assert_eq!(wire.db.value::<i64>("SELECT count(*) FROM locks").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_a_line_a_request_and_no_secret() {
    let wire = Wire::start().await;
    let query = "lease_id=0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11";
    assert_eq!(
        wire.status(
            &format!("GET /v1/acquire/a-name?{query} HTTP/1.1"),
            "X-Request-Id: first\r\n"
        )
        .await,
        200
    );
    assert_eq!(
        wire.status("GET /v1/acquire/%00 HTTP/1.1", "X-Request-Id: second\r\n")
            .await,
        400
    );
    let wrong = "Basic c2VjcmV0LXNlY3JldDo=";
    let unknown = format!(
        "GET /v1/release/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: \
         {wrong}\r\n\r\n"
    );
    assert_eq!(wire.raw(unknown.as_bytes()).await.unwrap().0, 401);
    let line = |id: &'static str| {
        wire.process.wait_for_line(id, |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            (line["request_id"] == id).then_some(line)
        })
    };
    let first = line("first");
    assert_eq!(first["method"], "GET");
    assert_eq!(first["route"], "/v1/acquire/{name}");
    assert_eq!(first["status"], 200);
    assert_eq!(first["client"], "127.0.0.1");
    assert!(
        first["duration_ms"].is_f64() && first["account_id"].is_i64(),
        "{first}"
    );
    assert_eq!(line("second")["status"], 400);
    let log = wire.process.log();
    let encoded = wire
        .authorization()
        .split_off("Authorization: Basic ".len());
    for secret in [
        wire.token.expose(),
        &encoded,
        "c2VjcmV0",
        "secret-secret",
        "lease_id",
        "a-name",
    ] {
        assert!(!log.contains(secret), "{secret} in the log:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_by_route_and_status() {
    let wire = Wire::start().await;
    let address: std::net::SocketAddr =
        wire.process.wait_for_line("where the metrics are", |line| {
            serde_json::from_str::<serde_json::Value>(line).ok()?["metrics"]
                .as_str()?
                .parse()
                .ok()
        });
    for (path, times) in [
        ("/v1/acquire/job", 2),
        ("/v1/acquire/%00", 3),
        ("/v1/nowhere/at-all", 1),
    ] {
        for _ in 0..times {
            wire.status(&format!("GET {path} HTTP/1.1"), "").await;
        }
    }
    wire.status("BREW /v1/release/job HTTP/1.1", "").await;
    let metrics = Client::new(format!("http://{address}"))
        .get("/metrics")
        .await
        .text;
    let value = |name: &str, labels: &[&str]| {
        let line = metrics.lines().find(|line| {
            line.split(['{', ' ']).next() == Some(name)
                && labels.iter().all(|label| line.contains(label))
        });
        let line = line.unwrap_or_else(|| panic!("{name} {labels:?} in:\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let acquire = "route=\"/v1/acquire/{name}\"";
    assert_eq!(
        value("lockable_http_requests_total", &[acquire, "status=\"200\""]),
        2.0
    );
    assert_eq!(
        value(
            "lockable_http_requests_total",
            &[acquire, "status=\"400\"", "method=\"GET\""]
        ),
        3.0
    );
    assert_eq!(
        value(
            "lockable_http_requests_total",
            &["status=\"405\"", "method=\"other\""]
        ),
        1.0
    );
    assert_eq!(
        value(
            "lockable_http_requests_total",
            &["route=\"/v1/{*rest}\"", "status=\"404\""]
        ),
        1.0
    );
    assert_eq!(
        value("lockable_http_request_duration_seconds_count", &[acquire]),
        5.0
    );
    assert_eq!(value("lockable_http_requests_in_flight", &[]), 0.0);
    assert_eq!(
        value("lockable_problems_total", &["code=\"invalid-name\""]),
        3.0
    );
    assert!(
        !metrics.contains("BREW") && !metrics.contains("nowhere"),
        "a client's words are no labels:\n{metrics}"
    );
}

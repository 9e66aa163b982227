//! Asking a node, and looking at its answers more closely than a client does.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lockable::api::Api;
use lockable::audit::Actor;
use lockable::config::Settings;
use lockable::secret::Secret;
use lockable::server;
use lockable::transport::Front;
use tower::ServiceExt as _;

use crate::support::prelude::*;

/// A node that is asked without a network in between: no client then normalises what a test sends.
pub(crate) struct Node {
    pub(crate) app: TestApp,
    front: Front<Api>,
}

impl Deref for Node {
    type Target = TestApp;

    fn deref(&self) -> &TestApp {
        &self.app
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings than the defaults.
    pub(crate) async fn start_with(set: impl FnOnce(&mut Settings)) -> Self {
        let app = TestApp::start_with(|settings| {
            settings.public_url = Some("https://locks.example.com".parse().unwrap());
            set(settings);
        })
        .await;
        Self::of(app)
    }

    pub(crate) fn of(app: TestApp) -> Self {
        Self {
            front: server::front(&app.app),
            app,
        }
    }

    /// Sends a request as it is. The peer is 192.0.2.1 unless it says otherwise.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let peer = request
            .extensions_mut()
            .remove::<IpAddr>()
            .unwrap_or(Ipv4Addr::new(192, 0, 2, 1).into());
        let connection = self.front.at(SocketAddr::new(peer, 50_000));
        let (parts, body) = connection.oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        }
    }

    /// `GET` with these credentials.
    pub(crate) async fn get(&self, token: &Secret, path_and_query: &str) -> Answer {
        self.send(request(Method::GET, path_and_query, token)).await
    }

    /// `GET` that must be answered with 200: what the answer says.
    pub(crate) async fn ask(&self, token: &Secret, path_and_query: &str) -> bool {
        self.get(token, path_and_query).await.response()
    }
}

/// A request with a token; add to it what the test is about.
pub(crate) fn request(method: Method, path_and_query: &str, token: &Secret) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path_and_query)
        .header(header::AUTHORIZATION, basic(token.expose(), ""))
        .header("x-request-id", "the-request-id")
        .body(Body::empty())
        .unwrap()
}

/// The header's value for a user name and a password.
pub(crate) fn basic(user: &str, password: &str) -> HeaderValue {
    let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
    HeaderValue::from_str(&format!("Basic {credentials}")).unwrap()
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// Of a 200, byte for byte.
    pub(crate) fn response(&self) -> bool {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/json");
        match &*self.body {
            b"{\"response\": true}" => true,
            b"{\"response\": false}" => false,
            _ => panic!("{}", self.text()),
        }
    }

    /// Of a problem document: its status and code. Checks what all of them have.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{} {}",
            self.status,
            self.text()
        );
        assert_eq!(self.header("cache-control"), "no-store");
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let text = |field: &str| {
            document[field]
                .as_str()
                .unwrap_or_else(|| panic!("{field} in {document}"))
                .to_owned()
        };
        assert_eq!(document["status"], self.status.as_u16());
        assert_eq!(text("request_id"), self.header("x-request-id"));
        assert!(
            text("detail").ends_with(['.', ')']) || text("detail").contains("https://"),
            "{document}"
        );
        assert!(!text("title").is_empty());
        assert!(
            text("type").ends_with(&format!("/docs#problem-{}", text("code"))),
            "{document}"
        );
        match self.status {
            StatusCode::UNAUTHORIZED => {
                assert_eq!(self.header("www-authenticate"), "Basic realm=\"lockable\"");
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                self.header("retry-after").parse::<u32>().unwrap();
            }
            _ => {}
        }
        assert!(
            !self.headers.keys().any(is_of_a_lease),
            "{:?}",
            self.headers
        );
        (self.status.as_u16(), text("code"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("{name} in {:?}", self.headers))
            .to_str()
            .unwrap()
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        self.header(name).parse().unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn is_of_a_lease(name: &HeaderName) -> bool {
    name.as_str().starts_with("lockable-")
}

/// Who administers in tests.
pub(crate) fn administrator() -> Actor {
    Actor::command("test")
}

/// How many locks there are, live or not: what a refused request must not change.
pub(crate) async fn rows(node: &Node) -> i64 {
    node.db.value("SELECT count(*) FROM locks").await
}

/// Asks until the answer is this one.
pub(crate) async fn until_code(node: &Node, token: &Secret, path: &str, code: &str) {
    eventually(code, async || {
        let answer = node.get(token, path).await;
        (!answer.status.is_success() && answer.problem().1 == code).then_some(())
    })
    .await;
}

//! A node in this process, asked without a network in between, and accounts that ask it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lockable::accounts::{self, Account, NewAccount};
use lockable::app::App;
use lockable::audit::Actor;
use lockable::config::Settings;
use lockable::id::TokenId;
use lockable::mail::{MailSettings, Mailer};
use lockable::secret::Secret;
use lockable::tokens::{self, NewToken, Scope};
use lockable::{jobs, namespaces, server};
use sqlx::postgres::PgConnectOptions;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::support::prelude::*;

/// A running node. Its jobs end with it.
pub(crate) struct Node {
    pub(crate) app: App,
    router: Router,
    _outbox: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start(db: &Database) -> Self {
        Self::start_with(db.options(), |_| {})
    }

    /// With other settings than the defaults, or another way to the database.
    pub(crate) fn start_with(database: PgConnectOptions, set: impl FnOnce(&mut Settings)) -> Self {
        let mut settings =
            Settings { public_url: Some("https://locks.example.com".parse().unwrap()), ..Settings::default() };
        settings.database.database_connections = 5;
        set(&mut settings);
        let outbox = tempfile::tempdir().unwrap();
        let mail = Mailer::start(&MailSettings {
            smtp_url: None,
            from: None,
            outbox: outbox.path().to_owned(),
            public_url: settings.public_url.clone().unwrap(),
        })
        .unwrap();
        let app = App::new(settings, SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), database, mail);
        jobs::spawn(&app, &TaskTracker::new());
        Self { router: server::router(&app), app, _outbox: outbox }
    }

    /// Sends a request as it is. The peer is 192.0.2.1 unless it says otherwise.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let peer = request.extensions_mut().remove::<IpAddr>().unwrap_or(Ipv4Addr::new(192, 0, 2, 1).into());
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer, 50_000)));
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
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

impl Drop for Node {
    fn drop(&mut self) {
        self.app.stopping.cancel();
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
        assert_eq!(self.header("content-type"), "application/problem+json", "{} {}", self.status, self.text());
        assert_eq!(self.header("cache-control"), "no-store");
        let document: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        let text = |field: &str| document[field].as_str().unwrap_or_else(|| panic!("{field} in {document}")).to_owned();
        assert_eq!(document["status"], self.status.as_u16());
        assert_eq!(text("request_id"), self.header("x-request-id"));
        assert!(text("detail").ends_with(['.', ')']) || text("detail").contains("https://"), "{document}");
        assert!(!text("title").is_empty());
        assert_eq!(text("type"), format!("https://locks.example.com/docs#problem-{}", text("code")));
        match self.status {
            StatusCode::UNAUTHORIZED => assert_eq!(self.header("www-authenticate"), "Basic realm=\"lockable\""),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                self.header("retry-after").parse::<u32>().unwrap();
            }
            _ => {}
        }
        assert!(!self.headers.keys().any(is_of_a_lease), "{:?}", self.headers);
        (self.status.as_u16(), text("code"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{name} in {:?}", self.headers)).to_str().unwrap()
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

/// Makes an account on a plan.
pub(crate) async fn account(db: &Database, name: &str, plan: &str) -> Account {
    let email = format!("{name}@example.com").parse().unwrap();
    let new = NewAccount { email: &email, password: None, plan, is_admin: false, email_verified: true };
    let account_id = accounts::create(&db.pool, new, None).await.unwrap();
    accounts::find(&db.pool, account_id).await.unwrap()
}

/// Makes a token of a namespace.
pub(crate) async fn token_in(db: &Database, account: &Account, namespace: &str) -> (TokenId, Secret) {
    let new = NewToken { label: "test", namespace, scope: Scope::Locks, expires_at: None };
    tokens::create(&db.pool, account, &new).await.unwrap()
}

/// Makes a token of the public namespace.
pub(crate) async fn token(db: &Database, account: &Account) -> Secret {
    token_in(db, account, "public").await.1
}

/// Makes a private namespace and a token of it.
pub(crate) async fn private(db: &Database, account: &Account, namespace: &str) -> Secret {
    namespaces::create(&db.pool, account, namespace).await.unwrap();
    token_in(db, account, namespace).await.1
}

/// Who administers in tests.
pub(crate) fn administrator() -> Actor {
    Actor::command("test")
}

/// How many locks there are, live or not: what a refused request must not change.
pub(crate) async fn rows(db: &Database) -> i64 {
    db.value("SELECT count(*) FROM locks").await
}

/// Asks until the answer is this one.
pub(crate) async fn until_code(node: &Node, token: &Secret, path: &str, code: &str) {
    eventually(code, async || {
        let answer = node.get(token, path).await;
        (!answer.status.is_success() && answer.problem().1 == code).then_some(())
    })
    .await;
}

/// Longer than any answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

//! Waiting in the line of a lock (`wait_ms`), as clients see it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use lockable::secret::Secret;
use lockable::server::connections::{Connections, Limits};
use lockable::server::{self, listener};
use lockable::tokens::Scope;
use lockable::transport::TrustedProxies;
use lockable::{accounts, plans};
use reqwest::Version;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::node::*;
use crate::support::prelude::*;

/// A `GET` that goes on while the test does something else.
fn in_background(node: &Arc<TestApp>, token: &Secret, path: &str) -> JoinHandle<Answer> {
    let (node, token, path) = (Arc::clone(node), token.clone(), path.to_owned());
    tokio::spawn(async move { node.get(&token, &path).await })
}

/// Returns once so many requests stand in a line.
async fn in_line(node: &TestApp, waiters: i64) {
    let count = "SELECT count(*) FROM lock_tickets WHERE claim_token IS NULL AND NOT is_detached";
    eventually("they stand in the line", async || {
        (node.db.value::<i64>(count).await == waiters).then_some(())
    })
    .await;
}

/// The places that are in the line, kept ones included.
async fn places(node: &TestApp) -> i64 {
    node.db.value("SELECT count(*) FROM lock_tickets").await
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_are_served_in_the_order_of_their_arrival_and_pollers_are_not() {
    let node = Arc::new(start().await);
    let holder = node.account("hobbyist").await.token().await;
    let poller = node.account("hobbyist").await.token().await;
    assert!(node.verdict(&holder, "/v1/acquire/job").await);
    let mut waiters = Vec::new();
    for plan in ["hobbyist", "business", "hobbyist"] {
        let token = node.account(plan).await.token().await;
        let waiter = in_background(&node, &token, "/v1/acquire/job?wait_ms=60000");
        waiters.push((token, waiter));
        in_line(&node, waiters.len() as i64).await;
    }
    let mut releases = holder;
    let mut fencing_token = 0;
    for (token, waiter) in waiters {
        assert!(node.verdict(&releases, "/v1/release/job").await);
        assert!(!node.verdict(&poller, "/v1/acquire/job").await);
        let granted = waiter.await.unwrap();
        assert!(granted.verdict());
        assert!(granted.number("lockable-waited-ms") > 0, "{granted:?}");
        assert_eq!(granted.number("lockable-expires-in-ms"), 60_000);
        assert!(granted.number("lockable-fencing-token") > fencing_token);
        fencing_token = granted.number("lockable-fencing-token");
        releases = token;
    }
    assert!(node.verdict(&releases, "/v1/release/job").await);
    assert!(node.verdict(&poller, "/v1/acquire/job").await);
    assert_eq!(places(&node).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_is_over_is_answered_false_and_not_before() {
    let node = start().await;
    let token = node.account("hobbyist").await.token().await;
    assert!(node.verdict(&token, "/v1/acquire/job").await);
    let began = Instant::now();
    assert!(!node.verdict(&token, "/v1/acquire/job?wait_ms=700").await);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(600), "{waited:?}");
    assert_eq!(places(&node).await, 0, "nothing is kept without a lease_id");
    // A free lock is granted at once.
    assert!(node.verdict(&token, "/v1/release/job").await);
    let granted = node.get(&token, "/v1/acquire/job?wait_ms=60000").await;
    assert!(granted.verdict());
    assert_eq!(granted.number("lockable-waited-ms"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_with_the_same_lease_id_keeps_the_place() {
    let node = Arc::new(start().await);
    let token = node.account("hobbyist").await.token().await;
    let other = node.account("hobbyist").await.token().await;
    assert!(node.verdict(&token, "/v1/acquire/job").await);
    let id = Uuid::new_v4();
    let first = format!("/v1/acquire/job?lease_id={id}");
    assert!(!node.verdict(&other, &format!("{first}&wait_ms=500")).await);
    assert_eq!(places(&node).await, 1);
    let behind = in_background(&node, &token, "/v1/acquire/job?wait_ms=60000");
    in_line(&node, 1).await;
    let again = in_background(&node, &other, &format!("{first}&wait_ms=60000"));
    in_line(&node, 2).await;
    assert!(node.verdict(&token, "/v1/release/job").await);
    let granted = again.await.unwrap();
    assert!(granted.verdict());
    assert_eq!(granted.required("lockable-lease-id"), id.to_string());
    // A release gives up a place, too.
    let third = Uuid::new_v4();
    let waits = format!("/v1/acquire/job?lease_id={third}&wait_ms=60000");
    let given_up = in_background(&node, &other, &waits);
    in_line(&node, 2).await;
    let release = format!("/v1/release/job?lease_id={third}");
    assert!(!node.verdict(&other, &release).await);
    assert!(!given_up.await.unwrap().verdict());
    assert_eq!(places(&node).await, 1);
    let release = format!("/v1/release/job?lease_id={id}");
    assert!(node.verdict(&other, &release).await);
    assert!(behind.await.unwrap().verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_requests_wait_as_the_plan_allows_and_ten_for_a_public_lock() {
    let node = Arc::new(start().await);
    let ada = node.account("business").await;
    let token = ada.token().await;
    let private = ada.private("team").await;
    let refused = (429, "too-many-waiters".to_owned());
    for token in [&token, &private] {
        assert!(node.verdict(token, "/v1/acquire/job").await);
    }
    let wait = "/v1/acquire/job?wait_ms=60000";
    let mut waiters = Vec::new();
    for n in 1..=10 {
        waiters.push(in_background(&node, &token, wait));
        in_line(&node, n).await;
    }
    let over = node.get(&token, wait).await;
    assert_eq!(over.problem(), refused);
    assert!(over.text.contains("10 requests"), "{over:?}");
    // Its own namespace has no such bound, but the plan's.
    waiters.push(in_background(&node, &private, wait));
    in_line(&node, 11).await;
    let edit = async |max| {
        plans::update(&node.db.pool, &administrator(), "business", |limits| {
            limits.max_waiters = max;
        })
        .await
        .unwrap();
    };
    edit(11).await;
    until_code(
        &node,
        &private,
        "/v1/acquire/job?wait_ms=1",
        "too-many-waiters",
    )
    .await;
    // Whoever does not wait is not concerned.
    assert!(!node.verdict(&private, "/v1/acquire/job").await);
    edit(0).await;
    let never = eventually("the plan lets nobody wait", async || {
        let answer = node.get(&private, wait).await;
        answer.text.contains("no request wait").then_some(answer)
    })
    .await;
    assert_eq!(never.problem(), refused);
    for waiter in &waiters {
        assert!(!waiter.is_finished(), "who waits goes on waiting");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_meanwhile_is_not_granted() {
    let node = Arc::new(start().await);
    let holder = node.account("hobbyist").await.token().await;
    assert!(node.verdict(&holder, "/v1/acquire/job").await);
    let (ada, bob) = (
        node.account("hobbyist").await,
        node.account("hobbyist").await,
    );
    let (token_id, revoked) = ada.token_with("public", Scope::Locks, None).await;
    let suspended = bob.token().await;
    let waiters = [&revoked, &suspended]
        .map(|token| in_background(&node, token, "/v1/acquire/job?wait_ms=60000"));
    in_line(&node, 2).await;
    ada.revoke(token_id).await;
    accounts::suspend(&node.db.pool, &administrator(), bob.id, "a test")
        .await
        .unwrap();
    for waiter in waiters {
        let refused = (401, "token-refused".to_owned());
        assert_eq!(waiter.await.unwrap().problem(), refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_its_waiters_at_once() {
    let node = Arc::new(start().await);
    let token = node.account("hobbyist").await.token().await;
    assert!(node.verdict(&token, "/v1/acquire/job").await);
    let id = Uuid::new_v4();
    let path = format!("/v1/acquire/job?lease_id={id}&wait_ms=60000");
    let waiter = in_background(&node, &token, &path);
    in_line(&node, 1).await;
    node.app.locks.stop_waiting();
    let answer = waiter.await.unwrap();
    assert_eq!(answer.problem(), (503, "shutting-down".into()));
    assert_eq!(answer.required("retry-after"), "0");
    // The place is kept for a while: another node takes it up.
    let another = Arc::new(node.another_node().await);
    let again = in_background(&another, &token, &path);
    in_line(&another, 1).await;
    assert!(another.verdict(&token, "/v1/release/job").await);
    assert!(again.await.unwrap().verdict());
}

/// A listener of the node, with TLS and bounds of the test's.
async fn listen(node: &TestApp, tls: Option<RustlsConfig>, limits: Limits) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Connections::new(limits, TrustedProxies::default());
    let front = server::front(&node.app);
    let serving = listener::serve(listener, tls, connections, Handle::new(), front);
    tokio::spawn(async move { serving.await.unwrap() });
    address
}

/// Ways to reach a node, by TLS and the version of HTTP.
struct Way {
    url: String,
    version: Version,
    certificate: reqwest::Certificate,
}

impl Way {
    fn client(&self) -> reqwest::Client {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([self.certificate.clone()]);
        let client = if self.version == Version::HTTP_2 {
            client.http2_prior_knowledge()
        } else {
            client.http1_only()
        };
        client.build().unwrap()
    }

    /// A request that waits.
    fn wait(&self, client: &reqwest::Client, token: &Secret) -> JoinHandle<reqwest::Response> {
        let url = format!("{}/v1/acquire/job?wait_ms=60000", self.url);
        let request = client.get(url).basic_auth(token.expose(), Some(""));
        tokio::spawn(async move { request.send().await.unwrap() })
    }
}

async fn ways(node: &TestApp) -> Vec<Way> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let config = RustlsConfig::from_pem(pem.clone().into_bytes(), key.into_bytes())
        .await
        .unwrap();
    let limits = Limits {
        total: 100,
        per_network: 100,
    };
    let https = format!("https://{}", listen(node, Some(config), limits).await);
    let mut ways = Vec::new();
    for url in [node.url(), https] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            ways.push(Way {
                url: url.clone(),
                version,
                certificate: reqwest::Certificate::from_pem(pem.as_bytes()).unwrap(),
            });
        }
    }
    ways
}

/// A waiter whose client has gone is not in the line any more: the one behind it is next.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_the_line() {
    let node = start().await;
    let ada = node.account("business").await.token().await;
    let bob = node.account("business").await.token().await;
    for way in ways(&node).await {
        let seen = format!("{} {:?}", way.url, way.version);
        assert!(node.verdict(&ada, "/v1/acquire/job").await, "{seen}");
        let client = way.client();
        let cancelled = way.wait(&client, &bob);
        in_line(&node, 1).await;
        let gone_client = way.client();
        let gone = way.wait(&gone_client, &bob);
        in_line(&node, 2).await;
        let next = way.wait(&client, &bob);
        in_line(&node, 3).await;
        // With HTTP/2 the connection stays: another request waits on it.
        cancelled.abort();
        drop(gone_client);
        gone.abort();
        in_line(&node, 1).await;
        assert_eq!(places(&node).await, 1, "{seen}");
        assert!(node.verdict(&ada, "/v1/release/job").await, "{seen}");
        let next = next.await.unwrap();
        assert_eq!((next.status().as_u16(), next.version()), (200, way.version));
        assert_eq!(next.text().await.unwrap(), r#"{"response": true}"#);
        assert!(node.verdict(&bob, "/v1/release/job").await, "{seen}");
    }
}

/// Longer than every deadline of requests, connections and their first requests; and while others
/// are closed because they are idle.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_cuts_a_wait_short() {
    let node = start().await;
    let token = node.account("hobbyist").await.token().await;
    assert!(
        node.verdict(
            &token,
            "/v1/acquire/job?lease_id=11111111-1111-4111-8111-111111111111"
        )
        .await
    );
    let few = Limits {
        total: 4,
        per_network: 4,
    };
    let address = listen(&node, None, few).await;
    let wait = Duration::from_secs(12);
    assert!(wait > server::DEADLINE);
    let url = format!(
        "http://{address}/v1/acquire/job?wait_ms={}",
        wait.as_millis()
    );
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(url).basic_auth(token.expose(), Some(""));
    let began = Instant::now();
    let waiter = tokio::spawn(async move { request.send().await.unwrap() });
    in_line(&node, 1).await;
    // As many connections as there is room for twice, each new one in the place of an idle one.
    let mut idle = Vec::new();
    while idle.len() < 8 {
        let stream = TcpStream::connect(address).await.unwrap();
        let is_kept = async {
            let refused = tokio::time::timeout(Duration::from_millis(200), stream.readable());
            refused.await.is_err()
        };
        if is_kept.await {
            idle.push(stream);
        }
    }
    assert!(!waiter.is_finished());
    let answer = waiter.await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.text().await.unwrap(), r#"{"response": false}"#);
    let waited = began.elapsed();
    assert!(waited + Duration::from_millis(100) >= wait, "{waited:?}");
}

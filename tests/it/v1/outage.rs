//! While the database is unreachable, every answer that needs it is a 503.

use std::sync::Arc;

use axum::http::Method;
use lockable::api::calls::CALLS;
use lockable::secret::Secret;
use uuid::Uuid;

use super::node::*;
use crate::support::prelude::*;
use crate::support::proxy::Flow;

async fn node(db: &Arc<Database>, proxy: &Proxy) -> (TestApp, Secret) {
    let node = TestApp::start_through(db, proxy).await;
    let token = node.account("hobbyist").await.token().await;
    assert!(node.verdict(&token, "/v1/acquire/held").await);
    (node, token)
}

async fn until_it_works_again(node: &TestApp, token: &Secret) {
    eventually("the database is back", async || {
        let answer = node.get(token, "/v1/heartbeat/held").await;
        if answer.status == 503 {
            return None;
        }
        assert!(
            answer.verdict(),
            "the holder has lost its lock in a short outage"
        );
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_a_503_with_retry_after() {
    let db = Arc::new(Database::create().await);
    let proxy = Proxy::to(&db).await;
    let (node, token) = node(&db, &proxy).await;
    proxy.sever();
    for call in CALLS.map(|call| call.name) {
        for token in [&token, &Secret::random()] {
            let answer = node.get(token, &format!("/v1/{call}/held")).await;
            assert_eq!(answer.problem(), (503, "unavailable".into()), "{call}");
        }
        // Refusals that need no database are as always.
        let mut head = request(Method::HEAD, &format!("/v1/{call}/held"), &token);
        assert_eq!(node.send(head).await.status, 405);
        head = request(
            Method::GET,
            &format!("/v1/{call}/held"),
            &Secret::new("no token"),
        );
        assert_eq!(node.send(head).await.problem().1, "credentials-malformed");
    }
    proxy.mend();
    until_it_works_again(&node, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_a_503_within_the_deadline() {
    let db = Arc::new(Database::create().await);
    let proxy = Proxy::to(&db).await;
    let (node, token) = node(&db, &proxy).await;
    // One token that is cached, and one that needs a look-up in the database.
    let unheard = Secret::new(Uuid::new_v4().to_string());
    proxy.answers(Flow::Freeze);
    let requests = CALLS
        .iter()
        .flat_map(|call| [(call.name, &token), (call.name, &unheard)])
        .map(|(call, token)| {
            let node = &node;
            async move {
                node.get(token, &format!("/v1/{call}/other"))
                    .await
                    .problem()
            }
        });
    for (status, code) in futures_util::future::join_all(requests).await {
        assert_eq!(status, 503);
        assert!(["unavailable", "timed-out"].contains(&&*code), "{code}");
    }
    proxy.mend();
    until_it_works_again(&node, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_sends_its_callers_elsewhere() {
    let node = start().await;
    let token = node.account("hobbyist").await.token().await;
    assert!(node.verdict(&token, "/v1/acquire/held").await);
    node.locks.shut_down().await;
    for call in CALLS.map(|call| call.name) {
        let answer = node.get(&token, &format!("/v1/{call}/held")).await;
        assert_eq!(answer.problem(), (503, "shutting-down".into()), "{call}");
        assert_eq!(answer.required("retry-after"), "0");
    }
}

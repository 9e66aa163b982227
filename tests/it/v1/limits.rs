//! Limits: those of an account's plan, and the one on a client IP that tries tokens.

use std::net::IpAddr;

use axum::http::Method;
use lockable::plans;
use lockable::secret::Secret;

use super::node::*;
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn requests_a_second_are_limited_per_account_and_a_plans_edit_counts_at_once() {
    let node = start().await;
    let (ada, bob) = (
        node.account("hobbyist").await,
        node.account("business").await,
    );
    let (token, second) = (ada.token().await, ada.token().await);
    plans::update(&node.db.pool, &administrator(), "hobbyist", |limits| {
        limits.requests_per_second = 1;
    })
    .await
    .unwrap();
    until_code(&node, &token, "/v1/heartbeat/job", "too-many-requests").await;
    let limited = eventually("limited", async || {
        let answer = node.get(&second, "/v1/heartbeat/job").await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    assert_eq!(
        limited.problem().1,
        "too-many-requests",
        "counted by account, not by token"
    );
    assert_eq!(limited.required("ratelimit-policy"), "\"requests\";q=1;w=1");
    let wait = limited.required("retry-after");
    assert_eq!(
        limited.required("ratelimit"),
        format!("\"requests\";r=0;t={wait}")
    );
    assert!(
        !node.verdict(&bob.token().await, "/v1/heartbeat/job").await,
        "another account is not"
    );
    // The limit is one of accounts: malformed credentials still get their own answer.
    assert_eq!(
        node.get(&Secret::new("no token"), "/v1/heartbeat/job")
            .await
            .status,
        401
    );

    plans::update(&node.db.pool, &administrator(), "hobbyist", |limits| {
        limits.requests_per_second = 1000;
    })
    .await
    .unwrap();
    eventually("the new rate", async || {
        node.get(&token, "/v1/heartbeat/job")
            .await
            .status
            .is_success()
            .then_some(())
    })
    .await;
    for _ in 0..20 {
        assert!(!node.verdict(&token, "/v1/heartbeat/job").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_locks_are_limited_and_those_that_are_held_can_be_kept() {
    let node = start().await;
    let ada = node.account("business").await;
    let token = ada.token().await;
    plans::update(&node.db.pool, &administrator(), "business", |limits| {
        limits.max_live_locks = 2;
    })
    .await
    .unwrap();
    let id = uuid::Uuid::now_v7();
    let mine = format!("/v1/acquire/mine?lease_id={id}");
    assert!(node.verdict(&token, &mine).await);
    let mut held = Vec::new();
    let refused = eventually("the limit", async || {
        let name = format!("job-{}", held.len());
        let answer = node.get(&token, &format!("/v1/acquire/{name}")).await;
        if answer.status.is_success() {
            held.push(name);
        }
        (!answer.status.is_success()).then_some(answer)
    })
    .await;
    assert_eq!(refused.problem(), (403, "live-locks-limit".into()));
    assert!(!refused.headers.contains_key("retry-after"));
    assert!(
        node.verdict(&token, &mine).await,
        "request again, it is the lease that it has"
    );
    assert!(node.verdict(&token, "/v1/heartbeat/job-0").await);
    assert!(
        node.verdict(
            &node.account("business").await.token().await,
            "/v1/acquire/other"
        )
        .await
    );
    for name in &held {
        assert!(node.verdict(&token, &format!("/v1/release/{name}")).await);
    }
    eventually("room again", async || {
        node.get(&token, "/v1/acquire/next")
            .await
            .status
            .is_success()
            .then_some(())
    })
    .await;
}

async fn from(node: &TestApp, peer: &str, forwarded: &str, token: &Secret) -> Answer {
    let mut request = request(Method::GET, "/v1/heartbeat/job", token);
    request
        .extensions_mut()
        .insert(peer.parse::<IpAddr>().unwrap());
    if !forwarded.is_empty() {
        request
            .headers_mut()
            .insert("x-forwarded-for", forwarded.parse().unwrap());
    }
    node.send(request).await
}

/// Tries tokens until the client IP is throttled. A `*` in `forwarded` is another number each time.
async fn until_throttled(node: &TestApp, peer: &str, forwarded: &str) {
    // Without a pause, because the limit grows back with time.
    for n in 0..2000 {
        let forwarded = forwarded.replace('*', &(n % 250).to_string());
        let answer = from(node, peer, &forwarded, &Secret::random()).await;
        if answer.problem().1 == "too-many-unknown-tokens" {
            return;
        }
    }
    panic!("never throttled");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tokens_are_limited_by_address_and_known_ones_are_not() {
    let node = start().await;
    let token = node.account("hobbyist").await.token().await;
    assert!(!from(&node, "192.0.2.7", "", &token).await.verdict());
    until_throttled(&node, "192.0.2.7", "198.51.100.*").await;
    assert!(
        !from(&node, "192.0.2.7", "", &token).await.verdict(),
        "a token that works"
    );
    assert_eq!(
        from(&node, "192.0.2.8", "", &Secret::random()).await.status,
        401,
        "another address"
    );
    until_throttled(&node, "2001:db8::1", "").await;
    assert_eq!(
        from(&node, "2001:db8:0:1::1", "", &Secret::random())
            .await
            .status,
        401,
        "another subscriber"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_clients_address_counts() {
    let node =
        start_with(|settings| settings.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()]).await;
    until_throttled(&node, "10.0.0.1", "198.51.100.1").await;
    // The entries further left have no effect.
    until_throttled(&node, "10.0.0.1", "203.0.113.*, 198.51.100.4").await;
    assert_eq!(
        from(&node, "10.0.0.1", "198.51.100.2", &Secret::random())
            .await
            .status,
        401
    );
    assert_eq!(
        from(
            &node,
            "10.0.0.1",
            "198.51.100.1, 198.51.100.3",
            &Secret::random()
        )
        .await
        .status,
        401
    );
}

//! The three calls, to the letter: bodies, headers, statuses.

use axum::body::Body;
use axum::http::{HeaderValue, Method};
use lockable::{accounts, namespaces, plans};
use uuid::Uuid;

use super::node::*;
use crate::support::prelude::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_taken_kept_and_given_back() {
    let node = start().await;
    let ada = node.account("hobbyist").await.token().await;
    assert!(!node.verdict(&ada, "/v1/heartbeat/job").await);
    assert!(!node.verdict(&ada, "/v1/release/job").await);
    assert!(node.verdict(&ada, "/v1/acquire/job").await);
    assert!(
        !node.verdict(&ada, "/v1/acquire/job").await,
        "also for the account that holds it"
    );
    assert!(node.verdict(&ada, "/v1/heartbeat/job").await);
    assert!(node.verdict(&ada, "/v1/release/job").await);
    assert!(!node.verdict(&ada, "/v1/release/job").await);
    assert!(!node.verdict(&ada, "/v1/heartbeat/job").await);
    assert!(node.verdict(&ada, "/v1/acquire/job").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_public_namespace_accounts_exclude_each_other() {
    let node = start().await;
    let ada = node.account("hobbyist").await.token().await;
    let bob = node.account("business").await.token().await;
    assert!(node.verdict(&ada, "/v1/acquire/job").await);
    assert!(!node.verdict(&bob, "/v1/acquire/job").await);
    assert!(!node.verdict(&bob, "/v1/heartbeat/job").await);
    assert!(!node.verdict(&bob, "/v1/release/job").await);
    assert!(
        node.verdict(&ada, "/v1/heartbeat/job").await,
        "what the other tried had no effect"
    );
    assert!(node.verdict(&ada, "/v1/release/job").await);
    assert!(node.verdict(&bob, "/v1/acquire/job").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_travels_in_headers_of_grants_and_renewals_only() {
    let node = start().await;
    let ada = node.account("business").await.token().await;
    let granted = node.get(&ada, "/v1/acquire/job?lease_ms=30000").await;
    assert!(granted.verdict());
    let fencing_token = granted.number("lockable-fencing-token");
    assert!(fencing_token > 0);
    assert!(
        !granted
            .required("lockable-lease-id")
            .parse::<Uuid>()
            .unwrap()
            .is_nil()
    );
    assert_eq!(granted.number("lockable-lease-ms"), 30_000);
    assert_eq!(granted.number("lockable-expires-in-ms"), 30_000);
    assert_eq!(granted.number("lockable-waited-ms"), 0);

    let renewed = node.get(&ada, "/v1/heartbeat/job?lease_ms=40000").await;
    assert!(renewed.verdict());
    assert_eq!(renewed.number("lockable-fencing-token"), fencing_token);
    assert_eq!(
        renewed.required("lockable-lease-id"),
        granted.required("lockable-lease-id")
    );
    assert_eq!(renewed.number("lockable-expires-in-ms"), 40_000);
    let renewed = node.get(&ada, "/v1/heartbeat/job").await;
    assert_eq!(
        renewed.number("lockable-expires-in-ms"),
        30_000,
        "by the length that it was granted with"
    );

    for (path, response) in [
        ("/v1/acquire/job", false),
        ("/v1/heartbeat/other", false),
        ("/v1/release/other", false),
        ("/v1/release/job", true),
    ] {
        let answer = node.get(&ada, path).await;
        assert_eq!(answer.verdict(), response, "{path}");
        assert!(
            !answer.headers.keys().any(is_of_a_lease),
            "{path}: {:?}",
            answer.headers
        );
    }
    let again = node.get(&ada, "/v1/acquire/job").await;
    assert!(again.number("lockable-fencing-token") > fencing_token);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_nothing_but_what_the_contract_says() {
    let node = start().await;
    let ada = node.account("hobbyist").await.token().await;
    for (path, body) in [
        ("/v1/acquire/job", r#"{"response": true}"#),
        ("/v1/acquire/job", r#"{"response": false}"#),
        ("/v1/release/job", r#"{"response": true}"#),
    ] {
        let answer = node.get(&ada, path).await;
        assert_eq!(answer.text, body);
        let mut names: Vec<_> = answer
            .headers
            .keys()
            .filter(|name| !is_of_a_lease(name))
            .map(|name| name.as_str().to_owned())
            .collect();
        names.sort_unstable();
        // The connection adds the length and the date.
        let expected = [
            "cache-control",
            "content-type",
            "referrer-policy",
            "strict-transport-security",
            "x-content-type-options",
            "x-request-id",
        ];
        assert_eq!(names, expected);
        assert_eq!(answer.required("cache-control"), "no-store");
        assert_eq!(answer.required("content-type"), "application/json");
        assert_eq!(answer.required("x-request-id"), "the-request-id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn post_is_as_good_as_get() {
    let node = start().await;
    let ada = node.account("business").await.token().await;
    let post = async |path: &str| node.send(request(Method::POST, path, &ada)).await;
    let granted = post("/v1/acquire/job?lease_ms=5000").await;
    assert!(granted.verdict());
    assert_eq!(granted.number("lockable-lease-ms"), 5000);
    assert!(!post("/v1/acquire/job").await.verdict());
    assert!(post("/v1/heartbeat/job").await.verdict());
    assert!(post("/v1/release/job").await.verdict());
    // An empty body is accepted, however it is announced.
    let mut chunked = request(Method::POST, "/v1/acquire/job", &ada);
    *chunked.body_mut() =
        Body::from_stream(futures_util::stream::empty::<Result<String, std::io::Error>>());
    assert!(node.send(chunked).await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_with_an_id_needs_it_and_can_be_asked_for_again() {
    let node = start().await;
    let ada = node.account("hobbyist").await.token().await;
    let (mine, other) = (Uuid::now_v7(), Uuid::now_v7());
    let granted = node
        .get(&ada, &format!("/v1/acquire/job?lease_id={mine}"))
        .await;
    assert!(granted.verdict());
    assert_eq!(granted.required("lockable-lease-id"), mine.to_string());

    assert!(
        !node.verdict(&ada, "/v1/heartbeat/job").await,
        "needs its id"
    );
    assert!(!node.verdict(&ada, "/v1/release/job").await, "needs its id");
    assert!(
        !node
            .verdict(&ada, &format!("/v1/heartbeat/job?lease_id={other}"))
            .await
    );
    assert!(
        !node
            .verdict(&ada, &format!("/v1/release/job?lease_id={other}"))
            .await
    );
    assert!(
        !node
            .verdict(&ada, &format!("/v1/acquire/job?lease_id={other}"))
            .await
    );

    let again = node
        .get(&ada, &format!("/v1/acquire/job?lease_id={mine}"))
        .await;
    assert!(again.verdict());
    assert_eq!(
        again.required("lockable-fencing-token"),
        granted.required("lockable-fencing-token")
    );
    assert_eq!(
        again.number("lockable-expires-in-ms"),
        60_000,
        "a full lease"
    );
    assert!(
        node.verdict(&ada, &format!("/v1/heartbeat/job?lease_id={mine}"))
            .await
    );
    assert!(
        node.verdict(&ada, &format!("/v1/release/job?lease_id={mine}"))
            .await
    );
    assert!(
        node.verdict(&ada, &format!("/v1/release/job?lease_id={mine}"))
            .await,
        "answers as the first did"
    );
    assert!(
        !node
            .verdict(&ada, &format!("/v1/heartbeat/job?lease_id={mine}"))
            .await
    );
    assert!(
        !node
            .verdict(&ada, &format!("/v1/acquire/job?lease_id={mine}"))
            .await,
        "an id serves one lease"
    );
    assert!(
        node.verdict(&ada, "/v1/acquire/job").await,
        "and the lock is free for another"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_does_what_a_lease_id_does() {
    let node = start().await;
    let ada = node.account("hobbyist").await.token().await;
    let key = Uuid::now_v7();
    for value in [key.to_string(), format!("\"{key}\"")] {
        let mut acquire = request(Method::POST, "/v1/acquire/job", &ada);
        acquire
            .headers_mut()
            .insert("idempotency-key", HeaderValue::from_str(&value).unwrap());
        let answer = node.send(acquire).await;
        assert!(answer.verdict());
        assert_eq!(answer.required("lockable-lease-id"), key.to_string());
    }
    assert!(!node.verdict(&ada, "/v1/release/job").await);
    assert!(
        node.verdict(&ada, &format!("/v1/release/job?lease_id={key}"))
            .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_acts_in_its_own_namespace() {
    let node = start().await;
    let (ada, bob) = (
        node.account("business").await,
        node.account("business").await,
    );
    let public = ada.token().await;
    let (adas, bobs) = (ada.private("builds").await, bob.private("builds").await);
    for holder in [&public, &adas, &bobs] {
        assert!(node.verdict(holder, "/v1/acquire/job").await);
    }
    assert!(node.verdict(&adas, "/v1/release/job").await);
    assert!(node.verdict(&public, "/v1/heartbeat/job").await);
    assert!(node.verdict(&bobs, "/v1/heartbeat/job").await);
    assert!(!node.verdict(&adas, "/v1/heartbeat/job").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_setting_decides_the_lease() {
    let node = start().await;
    let ada = node.account("business").await;
    let (public, builds) = (ada.token().await, ada.private("builds").await);
    let lease = async |token, path: &str| node.get(token, path).await.number("lockable-lease-ms");
    assert_eq!(lease(&public, "/v1/acquire/a").await, 60_000);
    accounts::set_lease_default(&node.db.pool, &ada.row().await, Some(20_000))
        .await
        .unwrap();
    let (actor, row) = (administrator(), ada.row().await);
    namespaces::set_lease_default(&node.db.pool, &actor, &row, "builds", Some(30_000))
        .await
        .unwrap();
    eventually("the account's", async || {
        let name = Uuid::new_v4();
        (lease(&public, &format!("/v1/acquire/{name}")).await == 20_000).then_some(())
    })
    .await;
    assert_eq!(lease(&builds, "/v1/acquire/c").await, 30_000);
    assert_eq!(lease(&builds, "/v1/acquire/d?lease_ms=1000").await, 1000);
    assert_eq!(
        lease(&builds, "/v1/acquire/e?lease_ms=86400000").await,
        86_400_000
    );

    // A plan that is edited brings stored settings into its bounds, and a request's outside of them
    // is refused.
    plans::update(&node.db.pool, &administrator(), "business", |limits| {
        limits.lease_max_ms = 60_000;
    })
    .await
    .unwrap();
    plans::update(&node.db.pool, &administrator(), "business", |limits| {
        limits.lease_min_ms = 50_000;
    })
    .await
    .unwrap();
    until_code(
        &node,
        &builds,
        "/v1/acquire/f?lease_ms=30000",
        "invalid-parameter",
    )
    .await;
    assert_eq!(lease(&builds, "/v1/acquire/g").await, 50_000);
    assert!(
        node.verdict(&builds, "/v1/heartbeat/c").await,
        "what is held runs on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hobbyist_who_chooses_a_lease_is_shown_the_way_up() {
    let node = start_with(|settings| {
        settings.upgrade_url = Some("https://example.com/upgrade".parse().unwrap());
    })
    .await;
    let ada = node.account("hobbyist").await.token().await;
    for path in [
        "/v1/acquire/job?lease_ms=30000",
        "/v1/acquire/job?lease_ms=60000",
        "/v1/heartbeat/job?lease_ms=1",
    ] {
        let answer = node.get(&ada, path).await;
        assert_eq!(answer.problem(), (403, "plan-does-not-allow".into()));
        assert!(
            answer
                .text
                .contains("\"upgrade_url\":\"https://example.com/upgrade\"")
        );
    }
    assert_eq!(rows(&node).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_downgrade_what_is_held_in_private_namespaces_can_be_kept_and_given_back() {
    let node = start().await;
    let ada = node.account("business").await;
    let (first, second) = (ada.private("first").await, ada.private("second").await);
    for token in [&first, &second] {
        assert!(node.verdict(token, "/v1/acquire/job").await);
    }
    plans::update(&node.db.pool, &administrator(), "business", |limits| {
        limits.max_private_namespaces = 1;
    })
    .await
    .unwrap();
    until_code(&node, &second, "/v1/acquire/more", "plan-does-not-allow").await;
    assert!(
        node.verdict(&first, "/v1/acquire/more").await,
        "the older one still fits"
    );
    assert!(node.verdict(&second, "/v1/heartbeat/job").await);
    assert!(node.verdict(&second, "/v1/release/job").await);
    accounts::set_plan(&node.db.pool, &administrator(), ada.id, "hobbyist")
        .await
        .unwrap();
    until_code(&node, &first, "/v1/acquire/yet-more", "plan-does-not-allow").await;
    assert!(node.verdict(&first, "/v1/heartbeat/job").await);
    accounts::set_plan(&node.db.pool, &administrator(), ada.id, "business")
        .await
        .unwrap();
    eventually("it fits again", async || {
        node.get(&first, "/v1/acquire/again")
            .await
            .status
            .is_success()
            .then_some(())
    })
    .await;
}

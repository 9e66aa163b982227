//! Credentials: every call with every kind of them.

use axum::http::{HeaderValue, Method, header};
use lockable::accounts;
use lockable::api::calls::CALLS;
use lockable::secret::Secret;
use lockable::tokens::Scope;

use super::node::*;
use crate::support::prelude::*;

/// The status and code of the three calls, which must be the same.
async fn each_call(node: &TestApp, authorization: &[HeaderValue]) -> (u16, String) {
    let mut answers = Vec::new();
    for call in CALLS.map(|call| call.name) {
        let mut request = request(Method::GET, &format!("/v1/{call}/job"), &Secret::random());
        request.headers_mut().remove(header::AUTHORIZATION);
        for value in authorization {
            request
                .headers_mut()
                .append(header::AUTHORIZATION, value.clone());
        }
        answers.push(node.send(request).await.problem());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.remove(0)
}

fn raw(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_credentials_are_refused_by_their_mistake() {
    let node = start().await;
    let token = node.account("hobbyist").await.token().await;
    let good = basic(token.expose(), "");
    assert_eq!(
        each_call(&node, &[]).await,
        (401, "credentials-missing".into())
    );
    let malformed = (401, "credentials-malformed".to_owned());
    for values in [
        vec![good.clone(), good.clone()],
        vec![raw(&format!("Bearer {}", token.expose()))],
        vec![raw(&format!("Basic {}", token.expose()))],
        vec![raw("Basic")],
        vec![raw("Basic ====")],
        vec![raw("Digest username=\"x\"")],
        vec![raw(&format!("Basic {}", "A".repeat(20_000)))],
        vec![HeaderValue::from_bytes(b"Basic \xff").unwrap()],
        vec![basic(token.expose(), "password")],
        vec![basic("", token.expose())],
        vec![basic("", "")],
        vec![basic("ada@example.com", "")],
        vec![basic(&format!("{} ", token.expose()), "")],
        vec![basic("' OR 1=1 --", "")],
        vec![basic("\0", "")],
    ] {
        assert_eq!(each_call(&node, &values).await, malformed, "{values:?}");
    }
    assert_eq!(rows(&node).await, 0);
    // Spellings of valid credentials.
    let encoded = good
        .to_str()
        .unwrap()
        .strip_prefix("Basic ")
        .unwrap()
        .to_owned();
    for value in [
        format!("basic {encoded}"),
        format!("BASIC  {encoded}"),
        format!("Basic {}", encoded.trim_end_matches('=')),
    ] {
        let mut request = request(Method::GET, "/v1/heartbeat/job", &token);
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, raw(&value));
        assert!(!node.send(request).await.verdict());
    }
    let upper = Secret::new(token.expose().to_uppercase());
    assert!(!node.verdict(&upper, "/v1/heartbeat/job").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_work_get_one_answer() {
    let node = start().await;
    let account = node.account("business").await;
    let refused = (401, "token-refused".to_owned());
    let each = async |token: &Secret| each_call(&node, &[basic(token.expose(), "")]).await;
    let works = async |token: &Secret| {
        node.get(token, "/v1/heartbeat/job")
            .await
            .status
            .is_success()
    };
    let until_refused = async |token: &Secret| {
        eventually("it is refused", async || {
            (!works(token).await).then_some(())
        })
        .await;
        assert_eq!(each(token).await, refused);
    };

    assert_eq!(each(&Secret::random()).await, refused, "unknown");

    let (token_id, revoked) = account.token_with("public", Scope::Locks, None).await;
    assert!(works(&revoked).await);
    account.revoke(token_id).await;
    until_refused(&revoked).await;

    let (token_id, expiring) = account.token_with("public", Scope::Locks, None).await;
    assert!(works(&expiring).await);
    // No notice announces the expiry.
    let soon = format!(
        "UPDATE api_tokens SET expires_at = clock_timestamp() + interval '1 s'
          WHERE token_id = {token_id}"
    );
    node.db.execute(&soon).await;
    until_refused(&expiring).await;

    let suspended = node.account("business").await;
    let token = suspended.token().await;
    assert!(node.verdict(&token, "/v1/acquire/held").await);
    accounts::suspend(&node.db.pool, &administrator(), suspended.id, "a test")
        .await
        .unwrap();
    until_refused(&token).await;
    accounts::restore(&node.db.pool, &administrator(), suspended.id)
        .await
        .unwrap();
    eventually("it works again", async || works(&token).await.then_some(())).await;
    assert!(
        node.verdict(&token, "/v1/heartbeat/held").await,
        "its leases ran on"
    );
    assert_eq!(rows(&node).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_learns_nothing_from_other_mistakes() {
    let node = start().await;
    for path in [
        "/v1/acquire/%00",
        "/v1/acquire/job?ttl=1",
        "/v1/acquire/job?wait_ms=5",
    ] {
        assert_eq!(
            node.get(&Secret::random(), path).await.problem(),
            (401, "token-refused".into()),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_manage_may_also_lock() {
    let node = start().await;
    let (_, token) = node
        .account("hobbyist")
        .await
        .token_with("public", Scope::Manage, None)
        .await;
    assert!(node.verdict(&token, "/v1/acquire/job").await);
    assert!(node.verdict(&token, "/v1/heartbeat/job").await);
    assert!(node.verdict(&token, "/v1/release/job").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_gets_no_further_than_false() {
    let node = start().await;
    let (ada, bob) = (
        node.account("business").await,
        node.account("business").await,
    );
    let (adas, bobs) = (ada.private("builds").await, bob.private("builds").await);
    let (adas_public, bobs_public) = (ada.token().await, bob.token().await);
    let pairs = [
        (&adas, &bobs),
        (&adas_public, &bobs_public),
        (&adas, &adas_public),
        (&adas_public, &bobs),
    ];
    for (at, (holder, other)) in pairs.into_iter().enumerate() {
        let id = uuid::Uuid::now_v7();
        assert!(
            node.verdict(holder, &format!("/v1/acquire/job-{at}?lease_id={id}"))
                .await
        );
        for call in ["heartbeat", "release"] {
            assert!(
                !node
                    .verdict(other, &format!("/v1/{call}/job-{at}?lease_id={id}"))
                    .await,
                "not even with the right id"
            );
            assert!(!node.verdict(other, &format!("/v1/{call}/job-{at}")).await);
        }
        assert!(
            node.verdict(holder, &format!("/v1/heartbeat/job-{at}?lease_id={id}"))
                .await
        );
    }
}

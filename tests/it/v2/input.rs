//! Input that is not what it has to be: a clear refusal, and nothing is done.

use reqwest::Method;
use serde_json::{Value, json};

use super::kit::*;
use crate::support::client::send;

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_checked_and_named_by_a_pointer() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let big = "x".repeat(257);
    let cases: [(Value, &str); 22] = [
        (json!({"ttl": 5}), "/ttl"),
        (json!({"lease_ms": "5"}), "/lease_ms"),
        (json!({"lease_ms": 1.5}), "/lease_ms"),
        (json!({"wait_ms": -1}), "/wait_ms"),
        (json!({"wait_ms": 60_001}), "/wait_ms"),
        (json!({"wait_ms": true}), "/wait_ms"),
        (json!({"mode": "semaphore"}), "/mode"),
        (json!({"mode": "SHARED"}), "/mode"),
        (json!({"mode": 1}), "/mode"),
        (json!({"limit": 1}), "/limit"),
        (json!({"limit": 1001}), "/limit"),
        (json!({"limit": 2, "mode": "shared"}), "/limit"),
        (json!({"max_hold_ms": 0}), "/max_hold_ms"),
        (json!({"max_hold_ms": 2_147_483_648_i64}), "/max_hold_ms"),
        (json!({"holder": ""}), "/holder"),
        (json!({"holder": big}), "/holder"),
        (json!({"holder": "a\u{1b}"}), "/holder"),
        (json!({"holder": "a\u{0}"}), "/holder"),
        (json!({"metadata": []}), "/metadata"),
        (json!({"metadata": {"a": "x".repeat(4096)}}), "/metadata"),
        (
            json!({"metadata": {"a": {"b\u{0}": 1}}}),
            "/metadata/a/b\u{0}",
        ),
        (
            json!({"lease_id": "00000000-0000-0000-0000-000000000000"}),
            "/lease_id",
        ),
    ];
    for (body, pointer) in cases {
        let (status, code, document) = refused(&locks.call("job", "acquire", &body).await);
        assert_eq!((status, &*code), (400, "invalid-body"), "{body}");
        assert_eq!(document["pointer"], pointer, "{body}");
    }
    let required = locks.call("job", "heartbeat", &json!({})).await;
    let (_, _, document) = refused(&required);
    assert!(
        document["detail"].as_str().unwrap().contains("lease_id"),
        "{document}"
    );
    let out_of_plan = locks.call("job", "acquire", &json!({"lease_ms": 1})).await;
    let (status, code, document) = refused(&out_of_plan);
    assert_eq!((status, &*code), (400, "invalid-body"));
    assert_eq!(document["pointer"], "/lease_ms");
    assert_eq!(app.db.value::<i64>("SELECT count(*) FROM locks").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_objects_are_refused() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let path = locks.path("locks/job/acquire");
    let post = async |content_type: Option<&str>, body: Vec<u8>| {
        let request = locks.client.request(Method::POST, &path).body(body);
        let request = match content_type {
            Some(content_type) => request.header("content-type", content_type),
            None => request,
        };
        send(request).await.problem()
    };
    let json = Some("application/json");
    let deep = format!(
        "{{\"metadata\":{{\"a\":{}{}}}}}",
        "[".repeat(9000),
        "]".repeat(9000)
    );
    for body in [
        &b"["[..],
        b"[]",
        b"null",
        b"\"x\"",
        b"{\"lease_ms\":1,\"lease_ms\":1}",
        b"{\"holder\":\"\xff\"}",
        b"{\"holder\":\"\\ud800\"}",
        b"{\"lease_ms\":1e400}",
        b"{\"lease_ms\":99999999999999999999}",
        deep.as_bytes(),
    ] {
        let refused = post(json, body.to_vec()).await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert_eq!(refused, (400, "invalid-body".to_owned()), "{shown}");
    }
    for content_type in [
        None,
        Some("text/plain"),
        Some("application/json; charset=latin1"),
    ] {
        let refused = post(content_type, b"{}".to_vec()).await;
        assert_eq!(refused, (415, "unsupported-media-type".to_owned()));
    }
    let spaces = vec![b' '; 64 * 1024 + 1];
    assert_eq!(post(json, spaces).await, (413, "body-too-large".to_owned()));
    assert_eq!(app.db.value::<i64>("SELECT count(*) FROM locks").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_nothing_twice() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    let lease = json!({"namespace": "jobs", "name": "a", "lease_id": new_id()});
    let twice = json!({"leases": [lease, lease]});
    for path in ["/v2/heartbeats", "/v2/releases"] {
        for (body, pointer) in [
            (&twice, "/leases/1"),
            (&json!({"leases": []}), "/leases"),
            (&json!({"leases": [[1]]}), "/leases/0"),
            (
                &json!({"leases": [{"namespace": "jobs", "name": "", "lease_id": new_id()}]}),
                "/leases/0/name",
            ),
        ] {
            let (status, code, document) = refused(&locks.post(path, body).await);
            assert_eq!((status, &*code), (400, "invalid-body"), "{body}");
            assert_eq!(document["pointer"], pointer, "{body}");
        }
    }
    let path = locks.path("acquire-all");
    let many: Vec<String> = (0..51).map(|n| n.to_string()).collect();
    for (names, pointer) in [
        (json!(["a", "b", "a"]), "/names/2"),
        (json!([]), "/names"),
        (json!(many), "/names"),
        (json!(["a", ".."]), "/names/1"),
    ] {
        let (status, code, document) = refused(&locks.post(&path, &json!({"names": names})).await);
        assert_eq!((status, &*code), (400, "invalid-body"), "{names}");
        assert_eq!(document["pointer"], pointer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_methods_that_are_none() {
    let app = TestApp::start().await;
    let locks = Locks::private(&app).await;
    for (method, path, status, code) in [
        (
            Method::GET,
            "/v2/namespaces/jobs/locks/job/acquire",
            405,
            "method-not-allowed",
        ),
        (
            Method::HEAD,
            "/v2/namespaces/jobs/locks/job/acquire",
            405,
            "method-not-allowed",
        ),
        (
            Method::DELETE,
            "/v2/namespaces/jobs/locks/job",
            405,
            "method-not-allowed",
        ),
        (Method::PUT, "/v2/heartbeats", 405, "method-not-allowed"),
        (
            Method::POST,
            "/v2/namespaces/jobs/locks/job/steal",
            404,
            "not-found",
        ),
        (Method::GET, "/v2/", 404, "not-found"),
        (Method::GET, "/v2/nowhere", 404, "not-found"),
        (
            Method::GET,
            "/v2/namespaces/jobs/locks/..",
            400,
            "invalid-name",
        ),
        (
            Method::GET,
            "/v2/namespaces/jobs/locks/a%zz",
            400,
            "invalid-name",
        ),
        (
            Method::GET,
            "/v2/namespaces/jobs/locks?page=2",
            400,
            "unknown-parameter",
        ),
        (
            Method::GET,
            "/v2/namespaces/jobs/locks?limit=0",
            400,
            "invalid-parameter",
        ),
        (
            Method::GET,
            "/v2/namespaces/jobs/locks?cursor=%21",
            400,
            "invalid-parameter",
        ),
    ] {
        // As it is: a client library would normalise the path.
        let answer = send(locks.client.request(method.clone(), path)).await;
        if path.ends_with("..") {
            continue;
        }
        if method == Method::HEAD {
            assert_eq!(answer.status, status);
            continue;
        }
        assert_eq!(
            answer.problem(),
            (status, code.to_owned()),
            "{method} {path}"
        );
        if status == 405 {
            assert!(answer.header("allow").is_some(), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_bearer_or_basic() {
    let app = TestApp::start().await;
    let token = app.account("hobbyist").await.token().await;
    let path = "/v2/namespaces/public/locks/job";
    let send_with = async |value: Option<String>| {
        let request = app.anonymous().request(Method::GET, path);
        send(match value {
            Some(value) => request.header("authorization", value),
            None => request,
        })
        .await
    };
    let token = token.expose();
    for scheme in ["Bearer ", "bearer ", "BEARER  "] {
        assert_eq!(
            send_with(Some(format!("{scheme}{token}"))).await.status,
            200
        );
    }
    for (value, code) in [
        (None, "credentials-missing"),
        (Some("Bearer".to_owned()), "credentials-malformed"),
        (Some("Bearer  ".to_owned()), "credentials-malformed"),
        (Some("Digest abcdefgh".to_owned()), "credentials-malformed"),
        (Some(format!("Bearer{token}")), "credentials-malformed"),
        (Some("Bearer nonsense".to_owned()), "credentials-malformed"),
        (
            Some(format!("Bearer {}", "x".repeat(300))),
            "credentials-malformed",
        ),
        (
            Some(format!("Bearer {}", uuid::Uuid::new_v4())),
            "token-refused",
        ),
    ] {
        let answer = send_with(value.clone()).await;
        assert_eq!(answer.problem(), (401, code.to_owned()), "{value:?}");
        assert!(answer.required("www-authenticate").starts_with("Bearer "));
    }
}

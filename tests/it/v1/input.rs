//! Bad input is answered with a problem document that says what to do, and changes nothing.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use lockable::api::calls::CALLS;
use lockable::secret::Secret;

use super::node::*;
use crate::support::prelude::*;

const ID: &str = "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11";

/// A node, and a valid token on the Business plan.
async fn node() -> (TestApp, Secret) {
    let node = start().await;
    let token = node.account("business").await.token().await;
    (node, token)
}

async fn nothing_changed(node: &TestApp) {
    assert_eq!(
        rows(node).await,
        0,
        "a refused request has written something"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_are_refused() {
    let (node, token) = node().await;
    let at_the_limit = "a".repeat(255);
    let over = "a".repeat(256);
    let two_byte = "%C3%A4".repeat(128);
    for call in CALLS.map(|call| call.name) {
        for name in [
            "",
            "/",
            ".",
            "..",
            "%2E",
            "%2e%2e",
            "a/b",
            "a/",
            "/a",
            "a//b",
            "%",
            "%4",
            "a%zz",
            "%u0041",
            "%00",
            "a%00b",
            "a%0Ab",
            "%7F",
            "%C2%80",
            "%FF",
            "%C3",
            "%C0%AF",
            "%ED%A0%80",
            &over,
            &two_byte,
        ] {
            let answer = node.get(&token, &format!("/v1/{call}/{name}")).await;
            assert_eq!(
                answer.problem(),
                (400, "invalid-name".into()),
                "{call} {name:?}"
            );
        }
    }
    for path in ["/v1/acquire", "/v1/release?lease_ms=5"] {
        assert_eq!(
            node.get(&token, path).await.problem(),
            (400, "invalid-name".into()),
            "{path}"
        );
    }
    nothing_changed(&node).await;
    assert!(
        node.verdict(&token, &format!("/v1/acquire/{at_the_limit}"))
            .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_decoded_once_and_compared_byte_for_byte() {
    let (node, token) = node().await;
    for (names, stored) in [
        (&["a%2Fb", "a%2fb", "%61%2F%62"][..], "a/b"),
        (&["a+b", "a%2Bb"], "a+b"),
        (&["a%20b"], "a b"),
        (&["a;b", "a%3Bb"], "a;b"),
        (&["%2525"], "%25"),
        (&["ä", "%C3%A4"], "ä"),
        (&["a%CC%88"], "a\u{308}"),
        (&["Job"], "Job"),
        (&["job"], "job"),
        (&["..."], "..."),
        (&["%F0%9F%94%92"], "🔒"),
        (&["a=b", "a%3Db"], "a=b"),
        (&["a%3Flease_ms=5"], "a?lease_ms=5"),
    ] {
        for (at, name) in names.iter().enumerate() {
            assert_eq!(
                node.verdict(&token, &format!("/v1/acquire/{name}")).await,
                at == 0,
                "{name}"
            );
            assert!(
                node.verdict(&token, &format!("/v1/heartbeat/{name}")).await,
                "{name}"
            );
        }
        let found =
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM locks WHERE name = $1").bind(stored);
        assert_eq!(found.fetch_one(&node.db.pool).await.unwrap(), 1, "{stored}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_taken_strictly() {
    let (node, token) = node().await;
    let nines = "9".repeat(5000);
    let refused = |code: &'static str| (400, code.to_owned());
    for query in [
        "lease_ms=",
        "lease_ms",
        "lease_ms=0",
        "lease_ms=-1",
        "lease_ms=+1000",
        "lease_ms=1e3",
        "lease_ms=1000.0",
        "lease_ms=%201000",
        "lease_ms=1000%00",
        "lease_ms=0x3e8",
        "lease_ms=01000",
        "lease_ms=999",
        "lease_ms=86400001",
        "lease_ms=18446744073709551617",
        "lease_ms=NaN",
        "lease_ms=true",
        "lease_ms=1000&lease_ms=1000",
        "wait_ms=-1",
        "wait_ms=60001",
        "wait_ms=x",
        "lease_id=",
        "lease_id=1",
        "lease_id=00000000-0000-0000-0000-000000000000",
        "lease_id=%7B0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11%7D",
        "lease_id=' OR 1=1 --",
        "%FF=1",
    ] {
        let query = query.replace(' ', "%20");
        let answer = node.get(&token, &format!("/v1/acquire/job?{query}")).await;
        assert_eq!(answer.problem(), refused("invalid-parameter"), "{query}");
    }
    let answer = node
        .get(&token, &format!("/v1/acquire/job?lease_ms={nines}"))
        .await;
    assert_eq!(answer.problem(), refused("invalid-parameter"));
    for (path, code) in [
        ("/v1/acquire/job?ttl=5", "unknown-parameter"),
        ("/v1/acquire/job?Lease_ms=5000", "unknown-parameter"),
        (
            "/v1/acquire/job?lease_ms=5000;lease_id=x",
            "invalid-parameter",
        ),
        ("/v1/heartbeat/job?wait_ms=0", "invalid-parameter"),
        ("/v1/release/job?lease_ms=5000", "invalid-parameter"),
        ("/v1/release/job?%00=5000", "unknown-parameter"),
    ] {
        assert_eq!(
            node.get(&token, path).await.problem(),
            refused(code),
            "{path}"
        );
    }
    assert!(
        node.get(&token, "/v1/acquire/job?lease_ms=999")
            .await
            .text
            .contains("from 1000 to 86400000")
    );
    nothing_changed(&node).await;
    assert!(
        node.verdict(&token, "/v1/acquire/job?wait_ms=0&&lease%5Fms=1000")
            .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys_are_uuids() {
    let (node, token) = node().await;
    let quoted = format!("\"{ID}\"");
    for keys in [
        &["order-7"][..],
        &[""],
        &["\"\""],
        &[&quoted[1..]],
        &[ID, ID],
        &["0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b12"],
    ] {
        let mut acquire = request(
            Method::POST,
            &format!("/v1/acquire/job?lease_id={ID}"),
            &token,
        );
        for key in keys {
            acquire
                .headers_mut()
                .append("idempotency-key", HeaderValue::from_str(key).unwrap());
        }
        assert_eq!(
            node.send(acquire).await.problem(),
            (400, "invalid-idempotency-key".into()),
            "{keys:?}"
        );
    }
    nothing_changed(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_get_and_post_do_anything() {
    let (node, token) = node().await;
    for call in CALLS.map(|call| call.name) {
        for method in [
            "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get",
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let answer = node
                .send(request(method.clone(), &format!("/v1/{call}/job"), &token))
                .await;
            assert_eq!(answer.status, 405, "{method} {call}");
            assert_eq!(answer.required("allow"), "GET, POST");
            if method != Method::HEAD {
                assert_eq!(answer.problem().1, "method-not-allowed");
            }
        }
    }
    nothing_changed(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_refused() {
    let (node, token) = node().await;
    let with = |method: &Method, body: Body, content_type: &'static str| {
        let mut acquire = request(method.clone(), "/v1/acquire/job", &token);
        acquire
            .headers_mut()
            .insert("content-type", HeaderValue::from_static(content_type));
        *acquire.body_mut() = body;
        acquire
    };
    for method in [Method::GET, Method::POST] {
        for (content_type, body) in [
            ("application/json", "{\"lease_ms\": 5000}"),
            ("application/x-www-form-urlencoded", "lease_ms=5000"),
            ("text/plain", " "),
        ] {
            let answer = node
                .send(with(&method, Body::from(body), content_type))
                .await;
            assert_eq!(
                answer.problem(),
                (400, "unexpected-body".into()),
                "{method} {body}"
            );
        }
    }
    // A body without a length is read, but not to an end that never comes.
    let chunks = [Ok(""), Ok("x")]
        .into_iter()
        .chain(std::iter::repeat_with(|| Ok::<_, std::io::Error>("more")));
    let endless = Body::from_stream(futures_util::stream::iter(chunks));
    assert_eq!(
        node.send(with(&Method::POST, endless, "text/plain"))
            .await
            .problem()
            .1,
        "unexpected-body"
    );
    let silent = Body::from_stream(futures_util::stream::pending::<Result<&str, std::io::Error>>());
    assert_eq!(
        node.send(with(&Method::POST, silent, "text/plain"))
            .await
            .problem()
            .1,
        "unexpected-body"
    );
    let broken = Body::from_stream(futures_util::stream::iter([Err::<&str, _>(
        std::io::Error::other("gone"),
    )]));
    assert_eq!(
        node.send(with(&Method::POST, broken, "text/plain"))
            .await
            .problem()
            .1,
        "unexpected-body"
    );
    nothing_changed(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_on_errands_of_their_own_are_refused() {
    let (node, token) = node().await;
    for (name, value, code) in [
        ("sec-purpose", "prefetch", "prefetch-refused"),
        ("sec-purpose", "prefetch;prerender", "prefetch-refused"),
        ("purpose", "prefetch", "prefetch-refused"),
        ("Purpose", "Prefetch", "prefetch-refused"),
        ("sec-fetch-site", "cross-site", "cross-site-refused"),
    ] {
        for call in CALLS.map(|call| call.name) {
            let mut request = request(Method::GET, &format!("/v1/{call}/job"), &token);
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
            assert_eq!(
                node.send(request).await.problem(),
                (403, code.into()),
                "{value} {call}"
            );
        }
    }
    nothing_changed(&node).await;
    for site in ["none", "same-origin", "same-site"] {
        let mut request = request(Method::GET, &format!("/v1/acquire/{site}"), &token);
        request
            .headers_mut()
            .insert("sec-fetch-site", HeaderValue::from_static(site));
        assert!(node.send(request).await.verdict());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_none_are_problems_too() {
    let (node, token) = node().await;
    for path in [
        "/v1",
        "/v1/",
        "/v1/locks",
        "/v1/ACQUIRE/job",
        "/v1/acquire%2Fjob",
        "/v1/acquired/job",
        "/v2",
        "/v2/",
        "/v2/locks/job",
    ] {
        assert_eq!(
            node.get(&token, path).await.problem(),
            (404, "not-found".into()),
            "{path}"
        );
    }
    nothing_changed(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_kept_if_it_is_sane() {
    let (node, token) = node().await;
    let id_of_answer_to = async |id: &str| {
        let mut request = request(Method::GET, "/v1/acquire/%", &token);
        request
            .headers_mut()
            .insert("x-request-id", HeaderValue::from_str(id).unwrap());
        let answer = node.send(request).await;
        answer.problem();
        answer.required("x-request-id").to_owned()
    };
    assert_eq!(id_of_answer_to("abc-123").await, "abc-123");
    for insane in ["", "a b", "\"><script>", &"a".repeat(129)] {
        let id: uuid::Uuid = id_of_answer_to(insane).await.parse().unwrap();
        assert_eq!(id.get_version_num(), 7);
    }
}

/// The documents, whole.
#[tokio::test(flavor = "multi_thread")]
async fn documents() {
    let (node, token) = node().await;
    let mut looks = String::new();
    for (method, path) in [
        ("GET", "/v1/acquire/a%00"),
        ("GET", "/v1/acquire/a/b"),
        ("GET", "/v1/acquire/job?lease_ms=1"),
        ("GET", "/v1/acquire/job?lease_ms=soon"),
        ("GET", "/v1/heartbeat/job?wait_ms=1"),
        ("GET", "/v1/acquire/job?ttl=60"),
        ("GET", "/v1/acquire/job?wait_ms=90000"),
        ("PUT", "/v1/acquire/job"),
        ("GET", "/v1/locks"),
    ] {
        let answer = node
            .send(request(method.parse().unwrap(), path, &token))
            .await;
        looks += &format!(
            "{method} {path}\n{}\n",
            serde_json::to_string_pretty(&answer.json()).unwrap()
        );
    }
    insta::assert_snapshot!(looks);
}

/// The answer to any path is one of the contract's, and never a 500.
#[tokio::test(flavor = "multi_thread")]
async fn noise_is_answered_in_order() {
    let (node, token) = node().await;
    let alphabet: Vec<&str> = vec![
        "%",
        "%2",
        "%00",
        "%FF",
        "%2F",
        "%25",
        "/",
        ".",
        "..",
        "a",
        "ä",
        "+",
        ";",
        "=",
        "&",
        "?",
        "lease_ms",
        "lease_id",
        "wait_ms",
        "=1",
        "=60000",
        "-1",
        ID,
        "{",
        "}",
        "\"",
        "'",
        "*",
        "~",
        "%F0%9F%94%92",
        ":",
        "@",
        "|",
        "\\",
        "acquire",
        "release",
        "v1",
    ];
    for _ in 0..2000 {
        let noise: String = (0..rand::random_range(0..8))
            .map(|_| alphabet[rand::random_range(0..alphabet.len())])
            .collect();
        let call = ["acquire", "heartbeat", "release", ""][rand::random_range(0..4)];
        let Ok(uri) = format!("/v1/{call}/{noise}").parse::<Uri>() else {
            continue;
        };
        let mut request: Request<Body> = request(Method::GET, "/", &token);
        *request.uri_mut() = uri.clone();
        let answer = node.send(request).await;
        match answer.status.as_u16() {
            200 => _ = answer.verdict(),
            400 | 404 => _ = answer.problem(),
            _ => panic!("{uri}: {} {}", answer.status, answer.text),
        }
    }
}

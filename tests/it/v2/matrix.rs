//! Every call of the description, with every kind of credentials that must be refused.

use lockable::accounts;
use lockable::audit::Actor;
use lockable::tokens::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use super::kit::*;

/// A call of the description, with a body that it takes.
struct Case {
    method: Method,
    path: String,
    operation: String,
    body: Option<Value>,
}

/// Bodies of the calls that need one. A call that is not here and has a body fails the tests.
fn body(operation: &str) -> Value {
    let lease = json!({"namespace": "jobs", "name": "job", "lease_id": new_id()});
    match operation {
        "acquire" => json!({}),
        "heartbeat" | "release" => json!({"lease_id": new_id()}),
        "break" => json!({"reason": "a test", "all": true}),
        "heartbeats" | "releases" => json!({"leases": [lease]}),
        "acquire_all" => json!({"names": ["job"]}),
        "create_token" => json!({"label": "x"}),
        "rotate_token" => json!({"overlap_ms": 60_000}),
        "create_namespace" => json!({"name": "jobs"}),
        "change_namespace" => json!({"lease_ms": 5000}),
        other => panic!("no case for {other}: give it a body here"),
    }
}

async fn cases(app: &TestApp) -> Vec<Case> {
    let document = app.anonymous().get("/openapi.json").await.json();
    let mut cases = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            cases.push(Case {
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                operation: name.to_owned(),
                body: operation.get("requestBody").map(|_| body(name)),
            });
        }
    }
    assert!(cases.len() > 12, "{}", cases.len());
    cases
}

impl Case {
    async fn send(&self, app: &TestApp, namespace: &str, authorization: Option<&str>) -> Answer {
        let path = self
            .path
            .replace("{namespace}", namespace)
            .replace("{name}", "job")
            .replace("{id}", "1");
        assert!(!path.contains('{'), "no case for a parameter of {path}");
        let mut request = app.anonymous().request(self.method.clone(), &path);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(body) = &self.body {
            request = request.json(body);
        }
        // A stream has no end.
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let is_stream = headers
            .get("content-type")
            .is_some_and(|it| it == "text/event-stream");
        let text = if is_stream {
            String::new()
        } else {
            response.text().await.unwrap()
        };
        Answer {
            status,
            headers,
            text,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_answered_without_the_right_credentials() {
    let app = TestApp::start().await;
    let actor = Actor::command("test");
    let owner = app.account("business").await;
    owner.namespace("jobs").await;
    let (id, revoked) = owner.token_with("jobs", Scope::Manage, None).await;
    owner.revoke(id).await;
    let (id, expired) = owner.token_with("jobs", Scope::Manage, None).await;
    app.db
        .execute(&format!(
            "UPDATE api_tokens SET expires_at = clock_timestamp() WHERE token_id = {}",
            id.0
        ))
        .await;
    let suspended_owner = app.account("business").await;
    suspended_owner.namespace("jobs").await;
    let (_, suspended) = suspended_owner
        .token_with("jobs", Scope::Manage, None)
        .await;
    accounts::suspend(&app.app.db, &actor, suspended_owner.id, "a test")
        .await
        .unwrap();
    let bearer = |token: &str| Some(format!("Basic {}", encoded(token)));
    let credentials = [
        (None, "credentials-missing"),
        (Some("Basic !".to_owned()), "credentials-malformed"),
        (bearer("nonsense"), "credentials-malformed"),
        (bearer(new_id().as_str().unwrap()), "token-refused"),
        (bearer(revoked.expose()), "token-refused"),
        (bearer(expired.expose()), "token-refused"),
        (bearer(suspended.expose()), "token-refused"),
    ];
    for case in cases(&app).await {
        for (authorization, code) in &credentials {
            let answer = case.send(&app, "jobs", authorization.as_deref()).await;
            assert_eq!(
                answer.problem(),
                (401, (*code).to_owned()),
                "{} {authorization:?}",
                case.operation
            );
        }
    }
    assert_eq!(app.db.value::<i64>("SELECT count(*) FROM locks").await, 0);
}

fn encoded(token: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(format!("{token}:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_a_namespace_of_another_account() {
    let app = TestApp::start().await;
    let owner = app.account("business").await;
    owner.namespace("theirs").await;
    let stranger = app.account("business").await;
    stranger.namespace("jobs").await;
    for scope in [Scope::Locks, Scope::Manage] {
        let (_, token) = stranger.token_with("jobs", scope, None).await;
        let authorization = format!("Bearer {}", token.expose());
        for case in cases(&app).await {
            if !case.path.contains("{namespace}") {
                continue;
            }
            let answer = case.send(&app, "theirs", Some(&authorization)).await;
            assert_eq!(
                answer.problem(),
                (404, "not-found".to_owned()),
                "{}",
                case.operation
            );
        }
    }
    assert_eq!(app.db.value::<i64>("SELECT count(*) FROM locks").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_counts_against_the_rate_of_the_plan() {
    let app = TestApp::start().await;
    app.db
        .execute("UPDATE plans SET requests_per_second = 1 WHERE code = 'business'")
        .await;
    for case in cases(&app).await {
        let account = app.account("business").await;
        account.namespace("jobs").await;
        // Of another namespace than the one that a call deletes.
        let (_, token) = account.token_with("public", Scope::Manage, None).await;
        let basic = format!("Basic {}", encoded(token.expose()));
        eventually("it is over the rate", async || {
            let answer = case.send(&app, "jobs", Some(&basic)).await;
            let is_over = answer.status == 429;
            if is_over {
                assert_eq!(answer.problem().1, "too-many-requests");
                assert!(answer.required("ratelimit-policy").contains("q=1"));
            }
            is_over.then_some(())
        })
        .await;
    }
}

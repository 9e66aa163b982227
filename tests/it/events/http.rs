//! Histories and streams over HTTP.

use lockable::audit::Actor;
use lockable::namespaces;
use lockable::tokens::{self, Scope};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::TokenClient;
use crate::support::prelude::*;
use crate::support::wait::DEADLINE;

const LOCK: &str = "/v2/namespaces/team/locks/a%2Fb";

/// A node, and a client with a token for the private namespace `team`.
async fn start() -> (TestApp, TokenClient) {
    let app = TestApp::start().await;
    let token = app.account("business").await.private("team").await;
    let client = app.token(&token);
    (app, client)
}

/// A stream of Server-Sent Events.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(client: &TokenClient, path: &str, after: Option<i64>) -> Stream {
        let mut request = client.request(Method::GET, path);
        if let Some(id) = after {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await.unwrap();
        let header = |name| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(response.status(), 200);
        assert_eq!(header("content-type"), "text/event-stream");
        assert_eq!(header("cache-control"), "no-store");
        Stream {
            response,
            text: String::new(),
        }
    }

    /// The fields of the next block; `None` at the end of the stream.
    async fn block(&mut self) -> Option<Vec<(String, String)>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let fields = block.lines().map(|line| {
                    let (name, value) = line.split_once(':').unwrap();
                    (name.to_owned(), value.trim_start().to_owned())
                });
                let fields = fields.collect();
                self.text = rest.to_owned();
                return Some(fields);
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk()).await;
            let chunk = chunk.expect("nothing came").unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event of one of these kinds: its id, if it has one, and its data.
    async fn next(&mut self, kinds: &[&str]) -> (Option<i64>, Value) {
        loop {
            let block = self.block().await.expect("the stream has ended");
            let field = |name| block.iter().find(|(field, _)| field == name);
            let Some((_, kind)) = field("event") else {
                continue;
            };
            if kinds.contains(&kind.as_str()) {
                let id = field("id").map(|(_, id)| id.parse().unwrap());
                let data: Value = serde_json::from_str(&field("data").unwrap().1).unwrap();
                if kind != "state" {
                    assert_eq!(data["event"], *kind);
                    assert_eq!(data["id"], json!(id));
                }
                return (id, data);
            }
        }
    }
}

/// Reads a history until it has so many events.
async fn history(client: &TokenClient, query: &str, count: usize) -> Value {
    eventually("the events are shown", async || {
        let answer = client.get(&format!("{LOCK}/history{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let body: Value = serde_json::from_str(&answer.text).unwrap();
        (body["events"].as_array().unwrap().len() == count).then_some(body)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_shown_page_by_page() {
    let (_app, client) = start().await;
    for _ in 0..2 {
        assert!(client.acquire("a%2Fb").await.verdict());
        assert!(client.release("a%2Fb").await.verdict());
    }
    let whole = history(&client, "", 4).await;
    assert_eq!(whole["next_cursor"], Value::Null);
    let events = whole["events"].as_array().unwrap();
    let kinds: Vec<&str> = events
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["released", "granted", "released", "granted"]);
    let mut newest = events[0].clone();
    assert!(newest["at"].as_str().unwrap().ends_with('Z'));
    assert!(newest["held_ms"].is_u64() && newest["lease_id"].is_string());
    assert_eq!(newest["fencing_token"], events[1]["fencing_token"]);
    for given in ["id", "at", "held_ms", "lease_id", "fencing_token"] {
        newest.as_object_mut().unwrap().remove(given).unwrap();
    }
    let expected = json!({
        "event": "released", "namespace": "team", "name": "a/b", "holder": null,
        "token_label": "test", "waited_ms": null, "reason": null
    });
    assert_eq!(newest, expected);
    let first = history(&client, "?limit=3", 3).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = history(&client, &format!("?limit=3&cursor={cursor}"), 1).await;
    assert_eq!(second["events"][0], events[3]);
    assert_eq!(second["next_cursor"], Value::Null);
    for wrong in [
        "?limit=0",
        "?limit=1001",
        "?cursor=x",
        "?cursor=YQ",
        "?page=2",
    ] {
        let answer = client.get(&format!("{LOCK}/history{wrong}")).await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_states_and_events_and_goes_on_on_another_node() {
    let app = TestApp::start().await;
    let token = app.account("business").await.private("team").await;
    let client = app.token(&token);
    let mut of_lock = Stream::open(&client, &format!("{LOCK}/events"), None).await;
    let (_, free) = of_lock.next(&["state"]).await;
    let expected = json!({
        "namespace": "team", "name": "a/b", "state": "free", "leases": [], "queue_length": 0
    });
    assert_eq!(free, expected);
    assert!(client.acquire("a%2Fb").await.verdict());
    let (_, held) = of_lock.next(&["state"]).await;
    assert_eq!(held["state"], "held");
    assert_eq!(held["leases"][0]["mode"], "exclusive");
    let (id, granted) = of_lock.next(&["granted"]).await;
    assert_eq!(granted["fencing_token"], held["leases"][0]["fencing_token"]);
    // Cut off, it goes on elsewhere, and there is nothing twice.
    drop(of_lock);
    assert!(client.release("a%2Fb").await.verdict());
    assert!(client.acquire("other").await.verdict());
    let other = app.another_node().await;
    let client = other.token(&token);
    let mut of_lock = Stream::open(&client, &format!("{LOCK}/events"), id).await;
    let kinds = ["granted", "released", "gap"];
    let (_, released) = of_lock.next(&kinds).await;
    assert_eq!(
        (&released["event"], &released["name"]),
        (&json!("released"), &json!("a/b"))
    );
    let mut of_namespace = Stream::open(&client, "/v2/namespaces/team/events", id).await;
    assert_eq!(of_namespace.next(&kinds).await.1, released);
    assert_eq!(of_namespace.next(&kinds).await.1["name"], "other");
    // A new one begins with a position: cut off before the first event, it misses none.
    let mut new = Stream::open(&client, "/v2/namespaces/team/events", None).await;
    let block = new.block().await.unwrap();
    assert!(block.iter().any(|(field, _)| field == "id"), "{block:?}");
    // The node stops: the streams end, in order, and new ones are turned away.
    other.app.stopping.cancel();
    while new.block().await.is_some() {}
    let refused = client.get("/v2/namespaces/team/events").await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.header("retry-after"), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_token_is_revoked() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    account.namespace("team").await;
    let (token_id, token) = account.token_with("team", Scope::Locks, None).await;
    let mut stream = Stream::open(&app.token(&token), "/v2/namespaces/team/events", None).await;
    tokens::revoke(&app.app.db, &Actor::command("test"), account.id, token_id)
        .await
        .unwrap();
    while stream.block().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn only_private_namespaces_of_ones_own_are_seen() {
    let (app, client) = start().await;
    let account = app.account("business").await;
    account.namespace("mine").await;
    let manager = account
        .token_with(namespaces::PUBLIC, Scope::Manage, None)
        .await
        .1;
    let manager = app.token(&manager);
    for call in ["locks/a/history", "locks/a/events", "events"] {
        let path = |namespace: &str| format!("/v2/namespaces/{namespace}/{call}");
        assert_eq!(client.get(&path("mine")).await.status, 404, "{call}");
        assert_eq!(client.get(&path("public")).await.status, 404, "{call}");
        let public = manager.get(&path("public")).await;
        assert_eq!(public.status, 404, "{call}");
        assert!(
            public.text.contains("`public` have no history"),
            "{}",
            public.text
        );
        assert_eq!(
            app.anonymous().get(&path("team")).await.status,
            401,
            "{call}"
        );
        let opened = manager
            .request(Method::GET, &path("mine"))
            .send()
            .await
            .unwrap();
        assert_eq!(opened.status(), 200, "{call}");
    }
    for id in ["x", "-1", "1.5", "99999999999999999999"] {
        let request = client.request(Method::GET, "/v2/namespaces/team/events");
        let refused = request.header("Last-Event-ID", id).send().await.unwrap();
        assert_eq!(refused.status(), 400, "{id}");
    }
}

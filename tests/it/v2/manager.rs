//! A client with a token of scope `manage`.

use lockable::id::TokenId;
use lockable::secret::Secret;
use lockable::tokens::Scope;
use reqwest::Method;
use serde_json::Value;

use crate::support::answer::Answer;
use crate::support::app::TestAccount;
use crate::support::client::{Client, send};
use crate::support::prelude::*;

/// A client of version 2 with an API token.
#[derive(Debug, Clone)]
pub(crate) struct Manager {
    pub(crate) client: Client,
    pub(crate) token_id: TokenId,
    pub(crate) token: Secret,
}

/// A client with a new token of scope `manage` for the public namespace.
pub(crate) async fn manager(app: &TestApp, account: &TestAccount) -> Manager {
    with_scope(app, account, Scope::Manage).await
}

/// A client with a new token of this scope for the public namespace.
pub(crate) async fn with_scope(app: &TestApp, account: &TestAccount, scope: Scope) -> Manager {
    let (token_id, token) = account.token_with("public", scope, None).await;
    Manager {
        client: app.anonymous(),
        token_id,
        token,
    }
}

impl Manager {
    /// A request without a body.
    pub(crate) async fn call(&self, method: Method, path: &str) -> Answer {
        let request = self.client.request(method, path);
        send(request.bearer_auth(self.token.expose())).await
    }

    /// A request with a body.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request = self.client.request(method, path);
        let request = request.bearer_auth(self.token.expose());
        let request = request.header("content-type", "application/json");
        send(request.body(body.to_string())).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path).await
    }

    /// All items of a list, page by page, from the field of this name.
    pub(crate) async fn all(&self, path: &str, field: &str, limit: usize) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}?limit={limit}{cursor}")).await;
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json();
            let found = page[field].as_array().unwrap();
            assert!(found.len() <= limit, "{page}");
            items.extend(found.iter().cloned());
            match &page["next_cursor"] {
                Value::Null => return items,
                Value::String(next) => {
                    assert_eq!(found.len(), limit, "only the last page has fewer");
                    cursor = format!("&cursor={next}");
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// Status, code and JSON pointer of a problem with a body.
#[track_caller]
pub(crate) fn pointed(answer: &Answer) -> (u16, String, String) {
    let (status, code) = answer.problem();
    let pointer = answer.json()["pointer"].as_str().unwrap_or("-").to_owned();
    (status, code, pointer)
}

/// The fields of a JSON object, in the order of the alphabet.
#[track_caller]
pub(crate) fn fields(object: &Value) -> Vec<String> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}

/// Checks that a value is an instant as the API writes it: RFC 3339 in UTC with milliseconds.
#[track_caller]
pub(crate) fn check_instant(value: &Value) {
    let text = value.as_str().unwrap();
    assert!(text.len() == 24 && text.ends_with('Z'), "{text}");
    text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
}

//! Helpers of the tests of version 2.

use lockable::secret::Secret;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) use crate::support::answer::Answer;
use crate::support::client::{TokenClient, send};
pub(crate) use crate::support::prelude::*;

/// A client of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Locks {
    pub(crate) client: TokenClient,
    pub(crate) namespace: String,
}

impl Locks {
    pub(crate) fn new(app: &TestApp, token: &Secret, namespace: &str) -> Locks {
        Locks {
            client: app.token(token),
            namespace: namespace.to_owned(),
        }
    }

    /// A new account's client of the public namespace.
    pub(crate) async fn public(app: &TestApp, plan: &str) -> Locks {
        let token = app.account(plan).await.token().await;
        Locks::new(app, &token, "public")
    }

    /// A new Business account's client of a namespace of its own.
    pub(crate) async fn private(app: &TestApp) -> Locks {
        let token = app.account("business").await.private("jobs").await;
        Locks::new(app, &token, "jobs")
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v2/namespaces/{}/{rest}", self.namespace)
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.client.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn get(&self, rest: &str) -> Answer {
        self.client.get(&self.path(rest)).await
    }

    /// A call about a lock.
    pub(crate) async fn call(&self, name: &str, call: &str, body: &Value) -> Answer {
        self.post(&self.path(&format!("locks/{name}/{call}")), body)
            .await
    }

    /// Acquires, and panics unless it is granted.
    pub(crate) async fn lease(&self, name: &str, body: &Value) -> Value {
        let answer = self.call(name, "acquire", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    pub(crate) async fn lock(&self, name: &str) -> Value {
        let answer = self.get(&format!("locks/{name}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

/// The code of a problem document, and the document.
#[track_caller]
pub(crate) fn refused(answer: &Answer) -> (u16, String, Value) {
    let (status, code) = answer.problem();
    (status, code, answer.json())
}

/// The body of calls that take a lease id alone.
pub(crate) fn id(lease_id: &Value) -> Value {
    json!({"lease_id": lease_id})
}

pub(crate) fn new_id() -> Value {
    json!(Uuid::new_v4())
}

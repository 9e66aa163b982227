//! Version 1 of the API, from the caller's side.

use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, redirect};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::service::Service;

/// For one request, its connection included. A service that waits longer than that answers 503
/// itself.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to the service, for one lock.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    service: Service,
    name: String,
}

/// What the service said. `true` comes with what it tells in headers.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) response: bool,
    pub(super) fencing_token: Option<u64>,
    pub(super) lease_id: Option<String>,
    pub(super) lease_ms: Option<u64>,
    pub(super) expires_in_ms: Option<u64>,
    /// Until then the lease is certainly held, on this machine's monotonic clock: counted from
    /// before the request was sent.
    pub(super) held_until: Option<Instant>,
}

/// No `true` or `false`.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The same request will not do better.
    #[error("{0}")]
    Refused(String),
    /// Whether it took effect is not known; the same request may be sent again.
    #[error("{sentence}")]
    Unavailable {
        /// What happened.
        sentence: String,
        /// How long the service asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// The name or the address cannot be asked for.
    #[error("{0}")]
    Usage(String),
}

/// What is asked for besides the name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parameters {
    pub(super) lease_id: Option<Uuid>,
    pub(super) lease_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Body {
    response: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
}

impl Api {
    pub(super) fn new(service: &Service, name: &str) -> Result<Self, RequestError> {
        if name.is_empty() || name == "." || name == ".." {
            return Err(RequestError::Usage(format!(
                "{name:?} cannot be the name of a lock"
            )));
        }
        if !matches!(service.url.scheme(), "http" | "https") {
            return Err(RequestError::Usage(
                "LOCKABLE_URL has to begin with https:// or http://".to_owned(),
            ));
        }
        let client = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("lockable/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| {
                RequestError::Usage(format!("cannot set up HTTPS: {}", causes(&error)))
            })?;
        Ok(Self {
            client,
            service: service.clone(),
            name: name.to_owned(),
        })
    }

    fn url(&self, action: &str, parameters: Parameters) -> Url {
        let mut url = self.service.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["v1", action, &self.name]);
        }
        if let Some(lease_id) = parameters.lease_id {
            url.query_pairs_mut()
                .append_pair("lease_id", &lease_id.to_string());
        }
        if let Some(lease_ms) = parameters.lease_ms {
            url.query_pairs_mut()
                .append_pair("lease_ms", &lease_ms.to_string());
        }
        url
    }

    /// Asks for `acquire`, `heartbeat` or `release`.
    pub(super) async fn send(
        &self,
        action: &str,
        parameters: Parameters,
    ) -> Result<Outcome, RequestError> {
        let unavailable = |sentence: String, retry_after| RequestError::Unavailable {
            sentence,
            retry_after,
        };
        let sent_at = Instant::now();
        // POST: nothing between here and there takes it for a question that may be repeated or
        // answered from a cache.
        let request = self
            .client
            .post(self.url(action, parameters))
            .basic_auth(&self.service.auth_token, Some(""));
        let response = request
            .send()
            .await
            .map_err(|error| unavailable(format!("no answer: {}", causes(&error)), None))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(|error| {
            unavailable(format!("the answer broke off: {}", causes(&error)), None)
        })?;
        if status == StatusCode::OK {
            let body: Body = serde_json::from_slice(&body).map_err(|_| {
                RequestError::Refused(format!(
                    "{} does not answer like a Lockable service",
                    self.service.url
                ))
            })?;
            return Ok(Outcome::new(body.response, &headers, sent_at));
        }
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_default();
        let detail = if problem.detail.is_empty() {
            problem.title
        } else {
            problem.detail
        };
        let sentence = format!("the service answered {status}: {detail}");
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(unavailable(
                sentence,
                number(&headers, RETRY_AFTER.as_str()).map(Duration::from_secs),
            ));
        }
        Err(RequestError::Refused(sentence))
    }
}

impl Outcome {
    fn new(response: bool, headers: &HeaderMap, sent_at: Instant) -> Self {
        let expires_in_ms = number(headers, "lockable-expires-in-ms");
        let waited_ms = number(headers, "lockable-waited-ms").unwrap_or(0);
        Self {
            response,
            fencing_token: number(headers, "lockable-fencing-token"),
            lease_id: headers
                .get("lockable-lease-id")
                .and_then(|it| it.to_str().ok())
                .map(str::to_owned),
            lease_ms: number(headers, "lockable-lease-ms"),
            expires_in_ms,
            held_until: expires_in_ms.map(|ms| sent_at + Duration::from_millis(ms + waited_ms)),
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// An error with what lies under it: "error sending request" alone helps nobody.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

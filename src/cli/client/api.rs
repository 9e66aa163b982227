//! Version 1 of the API, from the caller's side.

use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

use super::clock::BootInstant;
use super::display::visible;
use super::duration;
use super::http::{self, ESCAPED, TIMEOUT, causes, number};
use super::service::{Service, ServiceArgs};
use crate::locks::LockName;

/// The longest wait of one request: less than the minute after which many proxies give an answer
/// up. To wait for longer, the request is sent again with the same lease id.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(50);
/// A request that the service has not answered after so long waits.
const SURELY_WAITS: Duration = Duration::from_secs(1);
/// A waiting request is answered so much before its time is up at most.
const WAIT_TOLERANCE: Duration = Duration::from_millis(100);

/// A connection to the service, for one lock.
#[derive(Debug)]
pub(super) struct Api {
    client: Client,
    service: Service,
    name: LockName,
}

/// One of the API's calls.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    Acquire,
    Heartbeat,
    Release,
}

/// The service's verdict. `true` comes with details of the lease.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) response: bool,
    pub(super) fencing_token: Option<u64>,
    pub(super) lease_id: Option<String>,
    pub(super) lease_ms: Option<u64>,
    pub(super) expires_in_ms: Option<u64>,
    pub(super) waited_ms: Option<u64>,
    /// The lease is certainly held until then: counted from the instant before the request was
    /// sent.
    pub(super) held_until: Option<BootInstant>,
    /// True if the request waited for as long as it may, and kept its place in the line if it has a
    /// lease id. False if the service did not let it wait.
    pub(super) is_wait_over: bool,
}

/// There is neither `true` nor `false`.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The same request will not do better.
    #[error("{0}")]
    Refused(String),
    /// The request may have taken effect or not; it may be sent again.
    #[error("{sentence}")]
    Unavailable {
        /// The cause.
        sentence: String,
        /// How long the service asks to be left alone.
        retry_after: Option<Duration>,
        /// True if the service let the request wait until it stopped or the connection broke off.
        has_waited: bool,
    },
    /// The service, or the plan, lets no further request wait. Nothing was done.
    #[error("{0}")]
    TooManyWaiters(String),
    /// This may be an older service, which knows no waiting. Nothing was done.
    #[error("{0}")]
    CannotWait(String),
    /// The options do not make a request.
    #[error("{0}")]
    Usage(String),
    /// This machine refused what a request needs.
    #[error("{0}")]
    System(String),
}

impl RequestError {
    /// No answer, for a reason that passes by itself.
    pub(super) fn unavailable(sentence: String) -> Self {
        Self::Unavailable {
            sentence,
            retry_after: None,
            has_waited: false,
        }
    }
}

/// The parameters of a request, besides the name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parameters {
    pub(super) lease_id: Option<Uuid>,
    pub(super) lease_ms: Option<u64>,
    /// How long to wait for the lock, milliseconds. 0: not at all.
    pub(super) wait_ms: u64,
}

#[derive(Deserialize)]
struct Body {
    response: bool,
}

/// What a problem document says.
#[derive(Deserialize, Debug, Default)]
#[serde(default)]
pub(super) struct Problem {
    title: String,
    detail: String,
    /// Empty if the answer is no problem document.
    pub(super) code: String,
    /// Why a lease is lost, of version 2's `lease-lost`.
    pub(super) reason: Option<String>,
}

impl Problem {
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// The sentence for people.
    pub(super) fn sentence(&self, status: StatusCode) -> String {
        let detail = if self.detail.is_empty() {
            &self.title
        } else {
            &self.detail
        };
        if detail.is_empty() {
            format!("the service answered {status}")
        } else {
            format!("the service answered {status}: {}", visible(detail))
        }
    }
}

/// The part of a wait that the next request waits for, milliseconds.
pub(super) fn next_wait_ms(remaining: Duration) -> u64 {
    duration::milliseconds(remaining.min(LONGEST_WAIT))
}

impl Call {
    fn as_str(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Heartbeat => "heartbeat",
            Self::Release => "release",
        }
    }
}

impl Api {
    /// # Errors
    /// If the options name no service or no lock, or this machine cannot send requests.
    pub(super) fn new(args: &ServiceArgs, name: &str) -> Result<Self, RequestError> {
        let name = lock_name(name)?;
        let (client, service) = connect(args)?;
        Ok(Self {
            client,
            service,
            name,
        })
    }

    pub(super) fn name(&self) -> &LockName {
        &self.name
    }

    /// Sends a request and waits for its outcome.
    pub(super) async fn send(
        &self,
        call: Call,
        parameters: Parameters,
    ) -> Result<Outcome, RequestError> {
        let sent_at = BootInstant::now();
        let unavailable = |what: &str, error: reqwest::Error| RequestError::Unavailable {
            sentence: format!("{what}: {}", causes(&error)),
            retry_after: None,
            has_waited: parameters.wait_ms > 0
                && (sent_at + SURELY_WAITS).has_passed()
                && !error.is_connect()
                && !error.is_timeout(),
        };
        // POST: no proxy repeats it or answers it from a cache.
        let request = self
            .client
            .post(url(&self.service.url, call, &self.name, parameters))
            .basic_auth(self.service.auth_token.expose(), Some(""))
            .timeout(TIMEOUT + Duration::from_millis(parameters.wait_ms));
        let response = request
            .send()
            .await
            .map_err(|error| unavailable("no answer", error))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response
            .bytes()
            .await
            .map_err(|error| unavailable("the answer broke off", error))?;
        if status == StatusCode::OK {
            let body: Body = serde_json::from_slice(&body).map_err(|_| {
                RequestError::Refused(format!(
                    "{} does not answer like a Lockable service",
                    self.service.url
                ))
            })?;
            return Ok(Outcome::new(body.response, &headers, sent_at, parameters));
        }
        let problem = Problem::read(&body);
        if problem.code == "too-many-waiters" {
            return Err(RequestError::TooManyWaiters(problem.sentence(status)));
        }
        let is_about_waiting =
            [StatusCode::BAD_REQUEST, StatusCode::NOT_IMPLEMENTED].contains(&status);
        if parameters.wait_ms > 0 && is_about_waiting {
            return Err(RequestError::CannotWait(problem.sentence(status)));
        }
        Err(failure(status, &headers, &problem))
    }
}

/// The name of a lock, as it was given on the command line.
pub(super) fn lock_name(name: &str) -> Result<LockName, RequestError> {
    LockName::new(name).map_err(|error| RequestError::Usage(error.to_string()))
}

/// The service that the options name, and a client to ask it with.
///
/// # Errors
/// If the options name no service, or this machine cannot send requests.
pub(super) fn connect(args: &ServiceArgs) -> Result<(Client, Service), RequestError> {
    let service = args
        .resolve()
        .map_err(|error| RequestError::Usage(error.to_string()))?;
    let client = http::client(&service.url).map_err(|error| {
        RequestError::System(format!("cannot set up HTTPS: {}", causes(&error)))
    })?;
    Ok((client, service))
}

/// The error that an answer is which brings no outcome.
pub(super) fn failure(status: StatusCode, headers: &HeaderMap, problem: &Problem) -> RequestError {
    let sentence = problem.sentence(status);
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return RequestError::Unavailable {
            sentence,
            retry_after: number(headers, RETRY_AFTER.as_str()).map(Duration::from_secs),
            has_waited: problem.code == "shutting-down",
        };
    }
    RequestError::Refused(sentence)
}

/// The name is escaped here: a URL's own setter drops tabs and line feeds, and `.` segments.
fn url(service: &Url, call: Call, name: &LockName, parameters: Parameters) -> Url {
    let mut url = service.clone();
    let prefix = service.path().trim_end_matches('/');
    let segment = utf8_percent_encode(name.as_str(), ESCAPED);
    url.set_path(&format!("{prefix}/v1/{}/{segment}", call.as_str()));
    if let Some(lease_id) = parameters.lease_id {
        url.query_pairs_mut()
            .append_pair("lease_id", &lease_id.to_string());
    }
    if let Some(lease_ms) = parameters.lease_ms {
        url.query_pairs_mut()
            .append_pair("lease_ms", &lease_ms.to_string());
    }
    if parameters.wait_ms > 0 {
        url.query_pairs_mut()
            .append_pair("wait_ms", &parameters.wait_ms.to_string());
    }
    url
}

impl Outcome {
    fn new(
        response: bool,
        headers: &HeaderMap,
        sent_at: BootInstant,
        parameters: Parameters,
    ) -> Self {
        let wait = Duration::from_millis(parameters.wait_ms);
        let expires_in_ms = number(headers, "lockable-expires-in-ms");
        let waited_ms = number(headers, "lockable-waited-ms");
        let held_until = |expires_in_ms: u64| {
            let waited_ms = waited_ms.unwrap_or(0);
            sent_at + Duration::from_millis(expires_in_ms.saturating_add(waited_ms))
        };
        Self {
            response,
            fencing_token: number(headers, "lockable-fencing-token"),
            lease_id: headers
                .get("lockable-lease-id")
                .and_then(|it| it.to_str().ok())
                .map(str::to_owned),
            lease_ms: number(headers, "lockable-lease-ms"),
            expires_in_ms,
            waited_ms,
            held_until: expires_in_ms.map(held_until),
            is_wait_over: !wait.is_zero()
                && (sent_at + wait - WAIT_TOLERANCE.min(wait / 2)).has_passed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(service: &str, name: &str) -> String {
        let name = LockName::new(name).unwrap();
        let url = url(
            &service.parse().unwrap(),
            Call::Acquire,
            &name,
            Parameters::default(),
        );
        url.path().to_owned()
    }

    #[test]
    fn the_service_may_have_a_path_of_its_own() {
        for service in ["http://h", "http://h/"] {
            assert_eq!(path(service, "a/b c"), "/v1/acquire/a%2Fb%20c");
        }
        for service in ["http://h/x/y", "http://h/x/y/"] {
            assert_eq!(path(service, "ä"), "/x/y/v1/acquire/%C3%A4");
        }
    }

    proptest! {
        /// The service reads the very name that the client was given, whatever its characters.
        #[test]
        fn a_name_arrives_as_it_was_given(text in "\\PC{1,60}|[.%2eE\\\\/+;?#&=~ ]{1,12}") {
            if LockName::new(&text).is_ok() {
                let path = path("http://h/x", &text);
                let segment = path.strip_prefix("/x/v1/acquire/").unwrap();
                let name = LockName::parse_segment(segment).unwrap();
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}

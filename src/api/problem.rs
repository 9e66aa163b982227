//! What goes wrong, as RFC 9457 problem documents: every code there is, how each looks, and the one
//! place where the nouns' errors become HTTP.

use std::borrow::Cow;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use url::Url;

use crate::db;
use crate::locks::{EngineError, NameError};
use crate::plans::LeaseRefused;
use crate::tokens::VerifyError;
use crate::transport::{Outcome, RequestContext};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = ($code:literal, $status:ident, $title:literal);)+) => {
        /// The stable `code` of a problem document: what programs decide by. A code never changes
        /// its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// Every code, in the order of their statuses.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it stands in the document.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The status that it comes with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// A few words, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// When it happens and what to do, for the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// The lock's name in the path is not one: empty, longer than 255 bytes, `.` or `..`, with a
    /// control character, with a bare `/`, or not percent-encoded UTF-8.
    InvalidName = ("invalid-name", BAD_REQUEST, "Not a lock's name");
    /// A query parameter has a value that it cannot have, stands twice, or does not go with this
    /// call or with another parameter.
    InvalidParameter = ("invalid-parameter", BAD_REQUEST, "Invalid parameter");
    /// There is no query parameter of that name.
    UnknownParameter = ("unknown-parameter", BAD_REQUEST, "Unknown parameter");
    /// The `Idempotency-Key` header is not a UUID, stands twice, or is another one than `lease_id`.
    InvalidIdempotencyKey = ("invalid-idempotency-key", BAD_REQUEST, "Invalid Idempotency-Key");
    /// The request has a body. Version 1 takes its parameters in the query, with POST too.
    UnexpectedBody = ("unexpected-body", BAD_REQUEST, "A body was not expected");
    /// There is no `Authorization` header. Send the API token as the user name of HTTP basic
    /// authentication.
    CredentialsMissing = ("credentials-missing", UNAUTHORIZED, "No API token");
    /// The `Authorization` header is not what it has to be: `Basic` and base64 of the token and a
    /// colon.
    CredentialsMalformed = ("credentials-malformed", UNAUTHORIZED, "Malformed credentials");
    /// The API token is unknown, revoked or expired, or its account is suspended. Which of them is
    /// never said.
    TokenRefused = ("token-refused", UNAUTHORIZED, "API token refused");
    /// The account's plan does not include what was asked for; `upgrade_url` says where to get it,
    /// if the operator has set one.
    PlanDoesNotAllow = ("plan-does-not-allow", FORBIDDEN, "Not in the plan");
    /// The account holds as many live locks as its plan allows: release some or let them lapse.
    /// Renewing and releasing go on working. `upgrade_url` says where to get a larger plan, if the
    /// operator has set one. A 403 and not a 429: the same request sent again soon meets the same
    /// limit.
    LiveLocksLimit = ("live-locks-limit", FORBIDDEN, "Too many live locks");
    /// A browser announced this request as a prefetch (`Sec-Purpose`, `Purpose`): nobody asked for
    /// the lock yet.
    PrefetchRefused = ("prefetch-refused", FORBIDDEN, "Prefetch refused");
    /// A browser sent this request on behalf of a page of another site (`Sec-Fetch-Site`).
    CrossSiteRefused = ("cross-site-refused", FORBIDDEN, "Cross-site request refused");
    /// There is no such address in the API.
    NotFound = ("not-found", NOT_FOUND, "No such address");
    /// The address exists, the method does not; `Allow` names those that do.
    MethodNotAllowed = ("method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed");
    /// More requests a second than the account's plan allows, on this node. Nothing was done; ask
    /// again after `Retry-After`.
    TooManyRequests = ("too-many-requests", TOO_MANY_REQUESTS, "Too many requests");
    /// Too many requests with unknown tokens came from this address. Nothing was done; ask again
    /// after `Retry-After`.
    TooManyUnknownTokens = ("too-many-unknown-tokens", TOO_MANY_REQUESTS, "Too many unknown tokens");
    /// Something went wrong inside the service. Its log has the cause under the request's id.
    InternalError = ("internal-error", INTERNAL_SERVER_ERROR, "Internal error");
    /// A later version will do this; this one does not.
    NotImplemented = ("not-implemented", NOT_IMPLEMENTED, "Not implemented yet");
    /// The database cannot be reached, or could not say in time whether it was done. Not an answer:
    /// ask again with the same `lease_id`.
    Unavailable = ("unavailable", SERVICE_UNAVAILABLE, "Service unavailable");
    /// More work than the service can carry is waiting. Nothing was done; ask again after
    /// `Retry-After`.
    Overloaded = ("overloaded", SERVICE_UNAVAILABLE, "Service overloaded");
    /// This node is stopping. Nothing was done; ask again at once, another or the next one answers.
    ShuttingDown = ("shutting-down", SERVICE_UNAVAILABLE, "Shutting down");
    /// No answer within the request's deadline; whether it was done is not known. Ask again with
    /// the same `lease_id`.
    TimedOut = ("timed-out", SERVICE_UNAVAILABLE, "Timed out");
}

impl Code {
    /// Whether a larger plan would have allowed it.
    fn is_about_the_plan(self) -> bool {
        matches!(self, Self::PlanDoesNotAllow | Self::LiveLocksLimit)
    }
}

/// The metric that counts problem documents, by code.
const PROBLEMS: &str = "lockable_problems_total";

/// What stands in `Retry-After` where nothing better is known, seconds.
pub const RETRY_AFTER_S: u32 = 1;

/// One thing that went wrong, before it is written: the document also needs what only
/// [`ProblemWriter`] knows.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    code: Code,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    retry_after_s: u32,
    cause: Option<String>,
}

impl Problem {
    /// A problem with this code, and a sentence that says what to do.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Parts {
            code,
            detail: detail.into(),
            headers: Vec::new(),
            retry_after_s: RETRY_AFTER_S,
            cause: None,
        }))
    }

    /// A 500: the answer says nothing but the request's id, the log has the cause.
    pub fn internal(cause: &(dyn Error + 'static)) -> Self {
        Self::new(Code::InternalError, "").because(cause)
    }

    /// A 503 for a database that is away or did not answer in time.
    pub fn unavailable(cause: &(dyn Error + 'static)) -> Self {
        let detail = "The service cannot reach its database at the moment, so it cannot tell whether this was done. \
                      Ask again after Retry-After; with a lease_id of your own that is safe.";
        Self::new(Code::Unavailable, detail).because(cause)
    }

    /// With what caused it, for the log only.
    #[must_use]
    pub fn because(mut self, cause: &(dyn Error + 'static)) -> Self {
        self.0.cause = Some(chain(cause));
        self
    }

    /// With one header more.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// When to ask again, seconds; counts for 429 and 503.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = seconds;
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Its sentence.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }
}

/// A noun's sentence, as a sentence of its own.
fn sentence(error: &impl std::fmt::Display) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    if !text.ends_with('.') {
        text.push('.');
    }
    text
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if db::is_unavailable(&error) {
            Self::unavailable(&error)
        } else {
            Self::internal(&error)
        }
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Malformed => Self::new(
                Code::CredentialsMalformed,
                "The user name is not an API token: a token looks like 0194d3a5-7c1e-4b7e-9d3f-2f1f6c0a4b11. Copy it whole.",
            ),
            VerifyError::Refused => Self::new(
                Code::TokenRefused,
                "This API token does not work: it is unknown, revoked or expired, or its account is suspended. Look at the \
                 account page, and make a new token if need be.",
            ),
            VerifyError::Throttled { retry_after } => Self::new(
                Code::TooManyUnknownTokens,
                "Too many tokens that do not work came from this address: look for a program with an old token. Ask again \
                 after Retry-After.",
            )
            .retry_after_s(seconds(retry_after)),
            VerifyError::Database(error) => error.into(),
        }
    }
}

impl From<LeaseRefused> for Problem {
    fn from(error: LeaseRefused) -> Self {
        match error {
            LeaseRefused::Fixed { lease_ms } => Self::new(
                Code::PlanDoesNotAllow,
                format!(
                    "Your plan has one lease for all, {lease_ms} ms: leave lease_ms out, or get a plan with leases of your choice."
                ),
            ),
            LeaseRefused::OutOfBounds { min_ms, max_ms } => Self::new(
                Code::InvalidParameter,
                format!("lease_ms has to be from {min_ms} to {max_ms} on your plan."),
            ),
        }
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::new(Code::InvalidName, sentence(&error))
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded => Self::new(
                Code::Overloaded,
                "The service has more to do than it can carry, or your account has too much waiting in it. Nothing was done; ask \
                 again after Retry-After.",
            ),
            EngineError::ShuttingDown => Self::new(
                Code::ShuttingDown,
                "This node of the service is stopping. Nothing was done; ask again, and another or the next one answers.",
            )
            .retry_after_s(0),
            EngineError::Unknown => Self::unavailable(&error),
            EngineError::TooManyLocks { max } => Self::new(
                Code::LiveLocksLimit,
                format!(
                    "Your account holds as many locks as its plan allows, {max}: release some, or let them lapse. What it holds \
                     can still be renewed and released."
                ),
            ),
            EngineError::Refused => Self::internal(&error),
        }
    }
}

/// Whole seconds for `Retry-After`, never too early.
fn seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000))
        .unwrap_or(u32::MAX)
        .max(1)
}

/// An error and what caused it, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// The status alone; [`ProblemWriter::finish`] writes the document when the answer leaves the API.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes problem documents: knows where this service documents its codes and where plans are
/// upgraded.
#[derive(Debug)]
pub struct ProblemWriter {
    /// `{public URL}docs#problem-`: with a code behind it, the address of that code's
    /// documentation.
    type_prefix: String,
    upgrade_url: Option<Url>,
    complaints: Occasional,
}

/// Lets something through once a second: an outage is one matter, not one for each request that
/// meets it.
#[derive(Debug)]
struct Occasional {
    start: Instant,
    next_ms: AtomicU64,
}

impl Default for Occasional {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            next_ms: AtomicU64::new(0),
        }
    }
}

impl Occasional {
    fn now(&self) -> bool {
        let now_ms = self.start.elapsed().as_millis() as u64;
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        now_ms >= next_ms
            && self
                .next_ms
                .compare_exchange(next_ms, now_ms + 1000, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade_url: Option<&'a str>,
}

impl ProblemWriter {
    /// `public_url`: what the service is called from outside. `upgrade_url`: where to get what a
    /// plan does not allow.
    pub fn new(public_url: &Url, upgrade_url: Option<Url>) -> Self {
        metrics::describe_counter!(PROBLEMS, "Problem documents sent, by code");
        let base = public_url.as_str().trim_end_matches('/');
        Self {
            type_prefix: format!("{base}/docs#problem-"),
            upgrade_url,
            complaints: Occasional::default(),
        }
    }

    /// The last touch on an answer of the API.
    pub fn finish(&self, outcome: Outcome, context: &RequestContext) -> Response {
        match outcome {
            Outcome::Answer(response) if response.extensions().is_empty() => response,
            Outcome::Answer(mut response) => match response.extensions_mut().remove::<Problem>() {
                Some(problem) => self.write(&problem, context),
                None => response,
            },
            Outcome::Panicked => self.write(&Problem::new(Code::InternalError, ""), context),
            Outcome::TimedOut => {
                let detail = "The service could not answer in time, so it cannot tell whether this was done. \
                              Ask again after Retry-After; with a lease_id of your own that is safe.";
                self.write(&Problem::new(Code::TimedOut, detail), context)
            }
        }
    }

    fn write(&self, problem: &Problem, context: &RequestContext) -> Response {
        let Parts {
            code,
            detail,
            headers,
            retry_after_s,
            cause,
        } = &*problem.0;
        metrics::counter!(PROBLEMS, "code" => code.as_str()).increment(1);
        let request_id = context.id().as_str();
        let status = code.status();
        let upgrade_url = self
            .upgrade_url
            .as_ref()
            .map(Url::as_str)
            .filter(|_| code.is_about_the_plan());
        if let Some(cause) = cause {
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(request_id, code = code.as_str(), cause, "a request failed");
            } else if self.complaints.now() {
                tracing::warn!(
                    request_id,
                    code = code.as_str(),
                    cause,
                    "a request could not be answered, perhaps more"
                );
            }
        }
        let detail = match (code, upgrade_url) {
            (Code::InternalError, _) => Cow::Owned(format!(
                "Something went wrong inside the service. Try again; if it stays, tell the operator the request id {request_id}."
            )),
            (_, Some(url)) => Cow::Owned(format!("{detail} For another plan, see {url}")),
            _ => Cow::Borrowed(&**detail),
        };
        let document = Document {
            r#type: format!("{}{}", self.type_prefix, code.as_str()),
            title: code.title(),
            status: status.as_u16(),
            detail: &detail,
            code: code.as_str(),
            request_id,
            upgrade_url,
        };
        let body = serde_json::to_vec(&document).expect("text and numbers are always JSON");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let answer = response.headers_mut();
        answer.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match status {
            StatusCode::UNAUTHORIZED => {
                answer.insert(
                    header::WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"lockable\""),
                );
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                answer.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            _ => {}
        }
        for (name, value) in headers {
            answer.insert(name, value.clone());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::RequestId;
    use axum::http::HeaderMap;
    use std::net::Ipv4Addr;

    async fn written(outcome: Outcome, upgrade_url: Option<&str>) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("the-request-id"));
        let context = RequestContext::new(
            RequestId::from_headers(&headers),
            Ipv4Addr::LOCALHOST.into(),
        );
        let writer = ProblemWriter::new(
            &"https://locks.example.com/".parse().unwrap(),
            upgrade_url.map(|url| url.parse().unwrap()),
        );
        let response = writer.finish(outcome, &context);
        let (parts, body) = response.into_parts();
        let body: serde_json::Value =
            serde_json::from_slice(&axum::body::to_bytes(body, 10_000).await.unwrap()).unwrap();
        let headers: Vec<_> = parts
            .headers
            .iter()
            .map(|(n, v)| format!("{n}: {}", v.to_str().unwrap()))
            .collect();
        format!(
            "{}\n{}\n\n{}",
            parts.status,
            headers.join("\n"),
            serde_json::to_string_pretty(&body).unwrap()
        )
    }

    fn answer(problem: Problem) -> Outcome {
        Outcome::Answer(problem.into_response())
    }

    #[tokio::test]
    async fn documents() {
        let nothing = std::io::Error::other("the cause, for the log only");
        insta::assert_snapshot!(
            "bad_request",
            written(answer(Problem::new(Code::InvalidName, "Say a name.")), None).await
        );
        insta::assert_snapshot!(
            "unauthorized",
            written(answer(Problem::new(Code::TokenRefused, "No.")), None).await
        );
        let forbidden = Problem::new(Code::PlanDoesNotAllow, "Your plan does not do this.");
        insta::assert_snapshot!("forbidden", written(answer(forbidden.clone()), None).await);
        insta::assert_snapshot!(
            "forbidden_with_a_way_up",
            written(answer(forbidden), Some("https://example.com/up")).await
        );
        insta::assert_snapshot!(
            "internal",
            written(answer(Problem::internal(&nothing)), None).await
        );
        insta::assert_snapshot!(
            "unavailable",
            written(answer(Problem::unavailable(&nothing)), None).await
        );
        insta::assert_snapshot!("panicked", written(Outcome::Panicked, None).await);
        insta::assert_snapshot!("timed_out", written(Outcome::TimedOut, None).await);
        let limited = Problem::new(Code::TooManyRequests, "Slow down.")
            .retry_after_s(7)
            .with_header(
                HeaderName::from_static("ratelimit"),
                HeaderValue::from_static("\"requests\";r=0;t=7"),
            );
        insta::assert_snapshot!("limited", written(answer(limited), None).await);
    }

    #[test]
    fn codes_are_distinct_documented_and_in_order() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code:?}");
            assert!(
                code.as_str()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert!(
                code.meaning().ends_with('.') && !code.title().is_empty(),
                "{code:?}"
            );
        }
        assert!(Code::ALL.is_sorted_by_key(|code| code.status()));
    }
}

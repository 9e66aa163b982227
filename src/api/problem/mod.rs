//! Problems: everything that goes wrong in the API, as RFC 9457 problem documents. `code` lists
//! all codes, `errors` and `accounts` turn the nouns' errors into problems, `writer` writes the
//! documents.

mod accounts;
mod code;
mod errors;
mod events;
mod writer;

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

pub use code::Code;
pub use writer::ProblemWriter;

/// The value of `Retry-After` if nothing better is known, seconds.
pub const RETRY_AFTER_S: u32 = 1;

/// One thing that went wrong, before its document is written: for that, [`ProblemWriter`] knows the
/// URLs.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem(Box<Parts>);

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    code: Code,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    retry_after_s: u32,
    cause: Option<String>,
    fields: Map<String, Value>,
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
            fields: Map::new(),
        }))
    }

    /// A 500: the answer has nothing but the request's id, the log has the cause.
    pub fn internal(cause: &(dyn Error + 'static)) -> Self {
        Self::new(Code::InternalError, "").because(cause)
    }

    /// A 503: the database was unreachable, or did not answer in time.
    pub fn unavailable(cause: &(dyn Error + 'static)) -> Self {
        let detail = "The service cannot reach its database at the moment, so it cannot tell \
                      whether this was done. Ask again after Retry-After; with a lease_id of your \
                      own that is safe.";
        Self::new(Code::Unavailable, detail).because(cause)
    }

    /// Adds the cause, for the log only.
    #[must_use]
    pub fn because(mut self, cause: &(dyn Error + 'static)) -> Self {
        self.0.cause = Some(chain(cause));
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// The refusal of a new lease in a private namespace that the plan no longer covers.
    pub fn namespace_not_in_plan(namespace: &str) -> Self {
        let detail = format!(
            "Your plan no longer covers the private namespace {namespace:?}: locks in it can be \
             renewed and released, but no new ones taken. Use a token of the public namespace, or \
             a plan with more namespaces."
        );
        Self::new(Code::PlanDoesNotAllow, detail)
    }

    /// Adds a field to the document (RFC 9457 calls it an extension member).
    #[must_use]
    pub fn with_field(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the value of `Retry-After`, seconds; only 429 and 503 have one.
    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = seconds;
        self
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Its sentence that says what to do.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }
}

/// An error and its causes, separated by colons.
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

/// An answer with the status alone; [`ProblemWriter::finish`] writes the document when the answer
/// leaves the API.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Whole seconds for `Retry-After`, rounded up.
pub(super) fn whole_seconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis().div_ceil(1000))
        .unwrap_or(u32::MAX)
        .max(1)
}

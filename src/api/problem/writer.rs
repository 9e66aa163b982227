//! Problem documents, as they are sent.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use url::Url;

use super::{Code, Parts, Problem};
use crate::transport::{HandlerResult, RequestContext};

/// The metric that counts problem documents, by code.
const PROBLEMS: &str = "lockable_problems_total";

/// Writes problem documents: knows the URLs of the codes' documentation and of the larger plans.
#[derive(Debug)]
pub struct ProblemWriter {
    /// `{public URL}docs#problem-`: with a code behind it, the URL of that code's documentation.
    type_prefix: String,
    upgrade_url: Option<Url>,
    warnings: OncePerSecond,
}

/// Allows one log line a second: an outage is one event, not one for each request that meets it.
#[derive(Debug)]
struct OncePerSecond {
    start: Instant,
    next_ms: AtomicU64,
}

impl Default for OncePerSecond {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            next_ms: AtomicU64::new(0),
        }
    }
}

impl OncePerSecond {
    fn is_due(&self) -> bool {
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
    #[serde(flatten)]
    fields: &'a serde_json::Map<String, serde_json::Value>,
}

impl ProblemWriter {
    /// `public_url` is the URL of this service; `upgrade_url` that of the larger plans, if the
    /// operator has set one.
    pub fn new(public_url: &Url, upgrade_url: Option<Url>) -> Self {
        metrics::describe_counter!(PROBLEMS, "Problem documents sent, by code");
        let base = public_url.as_str().trim_end_matches('/');
        Self {
            type_prefix: format!("{base}/docs#problem-"),
            upgrade_url,
            warnings: OncePerSecond::default(),
        }
    }

    /// Finishes an answer of the API: writes the document of its problem, if it has one.
    pub fn finish(&self, result: HandlerResult, context: &RequestContext) -> Response {
        match result {
            HandlerResult::Answer(response) if response.extensions().is_empty() => response,
            HandlerResult::Answer(mut response) => {
                match response.extensions_mut().remove::<Problem>() {
                    Some(problem) => self.write(&problem, context),
                    None => response,
                }
            }
            HandlerResult::Panicked => self.write(&Problem::new(Code::InternalError, ""), context),
            HandlerResult::TimedOut => {
                let detail = "The service could not answer in time, so it cannot tell whether this \
                              was done. Ask again after Retry-After; with a lease_id of your own \
                              that is safe.";
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
            fields,
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
            } else if self.warnings.is_due() {
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
                "Something went wrong inside the service. Try again; if it stays, tell the \
                 operator the request id {request_id}."
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
            fields,
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
    use axum::http::{HeaderMap, HeaderName};
    use axum::response::IntoResponse;
    use std::net::Ipv4Addr;

    async fn written(result: HandlerResult, upgrade_url: Option<&str>) -> String {
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
        let response = writer.finish(result, &context);
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

    fn answer(problem: Problem) -> HandlerResult {
        HandlerResult::Answer(problem.into_response())
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
        insta::assert_snapshot!("panicked", written(HandlerResult::Panicked, None).await);
        insta::assert_snapshot!("timed_out", written(HandlerResult::TimedOut, None).await);
        let limited = Problem::new(Code::TooManyRequests, "Slow down.")
            .retry_after_s(7)
            .with_header(
                HeaderName::from_static("ratelimit"),
                HeaderValue::from_static("\"requests\";r=0;t=7"),
            );
        insta::assert_snapshot!("limited", written(answer(limited), None).await);
    }
}

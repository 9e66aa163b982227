//! Version 1: the contract that existing clients rely on. Three calls, two answers, and nothing is
//! ever added to the bodies; what is new travels in headers. The reference is `docs/api-v1.md`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio::time::timeout;
use uuid::Uuid;

use super::Api;
use super::auth::authenticate;
use super::parameters::{Operation, Parameters};
use super::problem::{Code, Problem};
use crate::locks::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, Lease, LockKey, LockName, Release,
    ReleaseOutcome,
};
use crate::tokens::Caller;
use crate::transport::{DirectCalls, RequestContext};

/// Strictly increasing for one lock, in the order of grants.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("lockable-fencing-token");
/// The lease's id: the client's, or one that the service drew.
pub const LEASE_ID: HeaderName = HeaderName::from_static("lockable-lease-id");
/// The length that the lease was granted with, milliseconds.
pub const LEASE_MS: HeaderName = HeaderName::from_static("lockable-lease-ms");
/// How long it lasts from now on, milliseconds.
pub const EXPIRES_IN_MS: HeaderName = HeaderName::from_static("lockable-expires-in-ms");
/// How long the request stood in line, milliseconds.
pub const WAITED_MS: HeaderName = HeaderName::from_static("lockable-waited-ms");

/// How long a body that was announced without a length may take to show whether it is empty.
const BODY_PATIENCE: Duration = Duration::from_secs(2);

/// Headers of an answer when the edge has put its own on it: room for them at once, rather than
/// growing twice.
const HEADERS: usize = 12;

const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
const PURPOSE: HeaderName = HeaderName::from_static("purpose");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// One of the three calls, as it stands in a path.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    operation: Operation,
    /// Where the name begins.
    name_at: usize,
}

impl Call {
    fn find(path: &str) -> Option<(Self, &'static str)> {
        let calls = path.strip_prefix("/v1/")?;
        let (call, name) = calls.split_once('/')?;
        let (operation, template) = match call {
            "acquire" => (Operation::Acquire, "/v1/acquire/{name}"),
            "heartbeat" => (Operation::Heartbeat, "/v1/heartbeat/{name}"),
            "release" => (Operation::Release, "/v1/release/{name}"),
            _ => return None,
        };
        let is_one_segment = !name.is_empty() && !name.contains('/');
        is_one_segment.then(|| {
            (
                Self {
                    operation,
                    name_at: path.len() - name.len(),
                },
                template,
            )
        })
    }
}

/// Each part of an answer has its deadline: the token's look-up, the engine, a body that is waited
/// for. Methods are not looked at here: a wrong one is told which are right, and a HEAD must never
/// take a lock.
impl DirectCalls for Api {
    type Call = Call;

    fn find(&self, path: &str) -> Option<(Call, &'static str)> {
        Call::find(path)
    }

    async fn answer(&self, call: Call, request: Request, context: &RequestContext) -> Response {
        match answer(self, call, request, context).await {
            Ok(answer) => answer,
            Err(problem) => {
                self.pressure.hold_back(&problem).await;
                problem.into_response()
            }
        }
    }
}

/// Parse, one call, render.
async fn answer(
    api: &Api,
    call: Call,
    request: Request,
    context: &RequestContext,
) -> Result<Response, Problem> {
    // What is not needed any more is dropped before the wait: a head keeps the buffer that it was
    // read into.
    let (caller, name, parameters) = read(api, call, request, context).await?;
    let key = LockKey {
        namespace_id: caller.namespace_id,
        name,
    };
    match call.operation {
        Operation::Acquire => acquire(api, &caller, key, &parameters).await,
        Operation::Heartbeat => heartbeat(api, &caller, key, &parameters).await,
        Operation::Release => release(api, &caller, key, parameters.lease_id).await,
    }
}

async fn read(
    api: &Api,
    Call { operation, name_at }: Call,
    request: Request,
    context: &RequestContext,
) -> Result<(Arc<Caller>, LockName, Parameters), Problem> {
    let (head, body) = request.into_parts();
    allow_method(&head.method)?;
    refuse_bystanders(&head.headers)?;
    api.app.locks.check_room()?;
    let caller = authenticate(api, context, &head.headers).await?;
    // As it was sent: decoded here, and strictly.
    let name = LockName::parse_segment(&head.uri.path()[name_at..])?;
    let parameters = Parameters::parse(operation, head.uri.query(), &head.headers)?;
    refuse_body(body).await?;
    Ok((caller, name, parameters))
}

async fn acquire(
    api: &Api,
    caller: &Caller,
    key: LockKey,
    parameters: &Parameters,
) -> Result<Response, Problem> {
    if parameters.wait_ms > 0 {
        let detail = "Waiting in line is not built yet: leave wait_ms out, and ask again while the answer is false.";
        return Err(Problem::new(Code::NotImplemented, detail));
    }
    if !caller.namespace_in_plan {
        let detail = format!(
            "Your plan no longer covers the private namespace {:?}: locks in it can be renewed and released, but no new \
             ones taken. Use a token of the public namespace, or a plan with more namespaces.",
            caller.namespace
        );
        return Err(Problem::new(Code::PlanDoesNotAllow, detail));
    }
    let lease_ms = caller.lease_ms(parameters.lease_ms)?;
    let wish = Acquire {
        key,
        account_id: caller.account_id,
        token_id: caller.token_id,
        // Drawn as the service's own ids are: a version 4 UUID, but from the thread's generator,
        // without a system call.
        lease_id: parameters
            .lease_id
            .unwrap_or_else(|| uuid::Builder::from_random_bytes(rand::random()).into_uuid()),
        needs_proof: parameters.lease_id.is_some(),
        lease_ms,
        requested_ms: parameters.lease_ms.map(|_| lease_ms),
        holder: None,
        metadata: None,
        max_live_locks: caller.limits.max_live_locks,
    };
    Ok(match api.app.locks.acquire(wish).await? {
        AcquireOutcome::Granted(lease) => granted(&lease),
        AcquireOutcome::Held | AcquireOutcome::LeaseEnded => says(false),
    })
}

async fn heartbeat(
    api: &Api,
    caller: &Caller,
    key: LockKey,
    parameters: &Parameters,
) -> Result<Response, Problem> {
    let lease_ms = parameters
        .lease_ms
        .map(|lease_ms| caller.limits.check_lease_ms(lease_ms))
        .transpose()?;
    let wish = Heartbeat {
        key,
        account_id: caller.account_id,
        lease_id: parameters.lease_id,
        lease_ms,
    };
    Ok(match api.app.locks.heartbeat(wish).await? {
        HeartbeatOutcome::Renewed(lease) => granted(&lease),
        HeartbeatOutcome::Lost(_) => says(false),
    })
}

async fn release(
    api: &Api,
    caller: &Caller,
    key: LockKey,
    lease_id: Option<Uuid>,
) -> Result<Response, Problem> {
    let wish = Release {
        key,
        account_id: caller.account_id,
        lease_id,
    };
    Ok(match api.app.locks.release(wish).await? {
        ReleaseOutcome::Released => says(true),
        ReleaseOutcome::Lost(_) => says(false),
    })
}

fn allow_method(method: &Method) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::POST) {
        return Ok(());
    }
    let detail = "Locks are taken, kept and given back with GET or POST; nothing was done.";
    Err(Problem::new(Code::MethodNotAllowed, detail)
        .with_header(header::ALLOW, HeaderValue::from_static("GET, POST")))
}

/// Browsers that only want to be quick, and pages of other sites that use a browser's stored
/// credentials, do not get to take or release anybody's lock.
fn refuse_bystanders(headers: &HeaderMap) -> Result<(), Problem> {
    let says = |name: &HeaderName, words: &[&str]| {
        headers.get_all(name).iter().any(|value| {
            let value = value.as_bytes().to_ascii_lowercase();
            words.iter().any(|word| {
                value
                    .windows(word.len())
                    .any(|part| part == word.as_bytes())
            })
        })
    };
    let ahead_of_time = ["prefetch", "prerender", "preview"];
    if says(&SEC_PURPOSE, &ahead_of_time) || says(&PURPOSE, &ahead_of_time) {
        let detail = "This was announced as a prefetch, which must not take, keep or give back a lock; nothing was done.";
        return Err(Problem::new(Code::PrefetchRefused, detail));
    }
    if says(&SEC_FETCH_SITE, &["cross-site"]) {
        let detail = "A page of another site sent this through a browser; nothing was done. Call the API from a program.";
        return Err(Problem::new(Code::CrossSiteRefused, detail));
    }
    Ok(())
}

/// An empty body is fine, whatever the headers say of it. Of another one no more is read than its
/// first bytes.
async fn refuse_body(body: Body) -> Result<(), Problem> {
    if body.is_end_stream() {
        return Ok(());
    }
    let refuse = || {
        let detail = "Version 1 takes its parameters in the query, with POST too: send no body (…?lease_ms=30000).";
        Problem::new(Code::UnexpectedBody, detail)
    };
    if body.size_hint().lower() > 0 {
        return Err(refuse());
    }
    // In a box: hardly anybody sends one.
    Box::pin(async move {
        let mut frames = body.into_data_stream();
        // A body that breaks off, or neither comes nor ends, is not an empty one.
        while let Some(frame) = timeout(BODY_PATIENCE, frames.next())
            .await
            .map_err(|_| refuse())?
        {
            if !frame.is_ok_and(|bytes| bytes.is_empty()) {
                return Err(refuse());
            }
        }
        Ok(())
    })
    .await
}

fn says(response: bool) -> Response {
    let mut answer = Response::new(Body::from(if response {
        "{\"response\": true}"
    } else {
        "{\"response\": false}"
    }));
    let headers = answer.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// `true`, with all that is known of the lease.
pub fn granted(lease: &Lease) -> Response {
    let mut answer = says(true);
    let headers = answer.headers_mut();
    let mut buffer = Uuid::encode_buffer();
    let lease_id = HeaderValue::from_str(lease.lease_id.hyphenated().encode_lower(&mut buffer));
    headers.insert(FENCING_TOKEN, HeaderValue::from(lease.fencing_token));
    headers.insert(LEASE_ID, lease_id.expect("a UUID is visible ASCII"));
    headers.insert(LEASE_MS, HeaderValue::from(lease.lease_ms));
    headers.insert(EXPIRES_IN_MS, HeaderValue::from(lease.expires_in_ms));
    headers.insert(WAITED_MS, HeaderValue::from(0));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a request keeps while it waits for the engine; ten thousand may wait.
    #[test]
    fn a_waiting_request_is_small() {
        fn size<F>(
            _: impl FnOnce(&'static Api, Call, Request, &'static RequestContext) -> F,
        ) -> usize {
            size_of::<F>()
        }
        assert!(
            size(super::answer) <= 1536,
            "{} bytes: box what is seldom",
            size(super::answer)
        );
    }

    #[test]
    fn calls_are_found_by_their_path() {
        let found = |path| {
            Call::find(path)
                .map(|(call, template)| (call.operation, &path[call.name_at..], template))
        };
        assert_eq!(
            found("/v1/acquire/a"),
            Some((Operation::Acquire, "a", "/v1/acquire/{name}"))
        );
        assert_eq!(
            found("/v1/heartbeat/a%2Fb"),
            Some((Operation::Heartbeat, "a%2Fb", "/v1/heartbeat/{name}"))
        );
        assert_eq!(
            found("/v1/release/+"),
            Some((Operation::Release, "+", "/v1/release/{name}"))
        );
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/acquire",
            "/v1/acquire/",
            "/v1/acquire//",
            "/v1/acquire/a/",
            "/v1/acquire/a/b",
            "/v1//a",
            "/v1/Acquire/a",
            "/v1/acquires/a",
            "/v2/acquire/a",
            "/x/v1/acquire/a",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}

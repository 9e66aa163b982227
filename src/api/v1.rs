//! Version 1: the contract that existing clients rely on. Three calls, two answers; nothing is ever
//! added to the bodies, new facts travel in headers. The reference is `docs/api-v1.md`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio::time::timeout;
use uuid::Uuid;

use super::auth::authenticate;
use super::calls::{Call, Operation};
use super::parameters::Parameters;
use super::problem::{Code, Problem};
use super::{Api, bystanders};
use crate::locks::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, Lease, LockKey, LockName, Mode, Release,
    ReleaseOutcome,
};
use crate::tokens::Caller;
use crate::transport::{DirectCalls, RequestContext};

/// The fencing token: strictly increasing for one lock, in the order of grants.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("lockable-fencing-token");
/// The lease's id: the client's, or one that the service drew.
pub const LEASE_ID: HeaderName = HeaderName::from_static("lockable-lease-id");
/// The length that the lease was granted with, milliseconds.
pub const LEASE_MS: HeaderName = HeaderName::from_static("lockable-lease-ms");
/// The time until the lease ends, milliseconds.
pub const EXPIRES_IN_MS: HeaderName = HeaderName::from_static("lockable-expires-in-ms");
/// The time for which the request waited for the lock, milliseconds.
pub const WAITED_MS: HeaderName = HeaderName::from_static("lockable-waited-ms");

/// The longest wait for a body that was announced without a length to show whether it is empty.
const BODY_PATIENCE: Duration = Duration::from_secs(2);

/// The number of headers of an answer, with those of the edge: the map has room for them at once
/// rather than growing twice.
const HEADERS: usize = 12;

/// A call that a path names.
#[derive(Clone, Copy, Debug)]
pub struct NamedCall {
    call: &'static Call,
    /// The offset in the path at which the lock's name begins.
    name_at: usize,
}

/// Each part of an answer has its deadline: the look-up of the token, the engine (which adds it to
/// the time that the request waits for the lock), the wait for a body. The method is no part of
/// finding a call: the answer to a wrong one lists the right ones, and a HEAD must never take a
/// lock.
impl DirectCalls for Arc<Api> {
    type Call = NamedCall;

    fn find(&self, path: &str) -> Option<(NamedCall, &'static str)> {
        Call::find(path).map(|(call, name_at)| (NamedCall { call, name_at }, call.template))
    }

    async fn answer(
        &self,
        call: NamedCall,
        request: Request,
        context: &RequestContext,
    ) -> Response {
        match answer(self, call, request, context).await {
            Ok(answer) => answer,
            Err(problem) => {
                self.pressure.hold_back(&problem).await;
                problem.into_response()
            }
        }
    }
}

/// Parses the request, hands it to the engine and renders the outcome.
async fn answer(
    api: &Api,
    call: NamedCall,
    request: Request,
    context: &RequestContext,
) -> Result<Response, Problem> {
    // The request is dropped before the wait for the engine: its head keeps the buffer that it was
    // read into.
    let (caller, name, parameters) = read(api, call, request, context).await?;
    let key = LockKey {
        namespace_id: caller.namespace_id,
        name,
    };
    match call.call.operation {
        Operation::Acquire => {
            let request = acquire(&caller, key, &parameters)?;
            Ok(match api.app.locks.acquire(request).await? {
                AcquireOutcome::Granted(lease) => granted(&lease),
                AcquireOutcome::Held
                | AcquireOutcome::LimitConflict { .. }
                | AcquireOutcome::LeaseEnded => verdict(false),
            })
        }
        Operation::Heartbeat => heartbeat(api, &caller, key, &parameters).await,
        Operation::Release => release(api, &caller, key, parameters.lease_id).await,
    }
}

async fn read(
    api: &Api,
    NamedCall { call, name_at }: NamedCall,
    request: Request,
    context: &RequestContext,
) -> Result<(Arc<Caller>, LockName, Parameters), Problem> {
    let (head, body) = request.into_parts();
    check_method(call, &head.method)?;
    bystanders::refuse(&head.headers)?;
    api.app.locks.check_room()?;
    let caller = authenticate(api, context, &head.headers).await?;
    // The path as it was sent: the name is decoded here, and strictly.
    let name = LockName::parse_segment(&head.uri.path()[name_at..])?;
    let parameters = Parameters::parse(call, head.uri.query(), &head.headers)?;
    refuse_body(body).await?;
    Ok((caller, name, parameters))
}

/// Not async, as the others are: what it is given would stay in the future of a request that waits.
fn acquire(caller: &Caller, key: LockKey, parameters: &Parameters) -> Result<Acquire, Problem> {
    if !caller.namespace_in_plan {
        return Err(Problem::namespace_not_in_plan(&caller.namespace));
    }
    let lease_ms = caller.lease_ms(parameters.lease_ms)?;
    Ok(Acquire {
        key,
        account_id: caller.account_id,
        token_id: caller.token_id,
        // A version 4 UUID from the thread's generator, which makes no system call.
        lease_id: parameters
            .lease_id
            .unwrap_or_else(|| uuid::Builder::from_random_bytes(rand::random()).into_uuid()),
        needs_proof: parameters.lease_id.is_some(),
        lease_ms,
        requested_ms: parameters.lease_ms.map(|_| lease_ms),
        holder: None,
        metadata: None,
        mode: Mode::Exclusive,
        max_hold_ms: None,
        wait_ms: parameters.wait_ms,
        max_live_locks: caller.limits.max_live_locks,
        max_waiters: caller.limits.max_waiters,
        max_waiters_of_lock: caller.max_waiters_of_lock(),
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
    let request = Heartbeat {
        key,
        account_id: caller.account_id,
        lease_id: parameters.lease_id,
        lease_ms,
    };
    Ok(match api.app.locks.heartbeat(request).await? {
        HeartbeatOutcome::Renewed(lease) => granted(&lease),
        HeartbeatOutcome::Lost(_) => verdict(false),
    })
}

async fn release(
    api: &Api,
    caller: &Caller,
    key: LockKey,
    lease_id: Option<Uuid>,
) -> Result<Response, Problem> {
    let request = Release {
        key,
        account_id: caller.account_id,
        lease_id,
    };
    Ok(match api.app.locks.release(request).await? {
        ReleaseOutcome::Released => verdict(true),
        ReleaseOutcome::Lost(_) => verdict(false),
    })
}

fn check_method(call: &Call, method: &Method) -> Result<(), Problem> {
    if call.methods.contains(method) {
        return Ok(());
    }
    let allowed: Vec<_> = call.methods.iter().map(Method::as_str).collect();
    let detail = format!(
        "Locks are taken, kept and given back with {}; nothing was done.",
        allowed.join(" or ")
    );
    let allowed = HeaderValue::from_str(&allowed.join(", ")).expect("methods are visible ASCII");
    Err(Problem::new(Code::MethodNotAllowed, detail).with_header(header::ALLOW, allowed))
}

/// Refuses a body that is not empty, whatever the headers say of it, after its first bytes.
async fn refuse_body(body: Body) -> Result<(), Problem> {
    if body.is_end_stream() {
        return Ok(());
    }
    let refuse = || {
        let detail = "Version 1 takes its parameters in the query, with POST too: send no body \
                      (…?lease_ms=30000).";
        Problem::new(Code::UnexpectedBody, detail)
    };
    if body.size_hint().lower() > 0 {
        return Err(refuse());
    }
    // Boxed: few requests have a body, and the others must not carry room for reading one.
    Box::pin(async move {
        let mut frames = body.into_data_stream();
        // A body that breaks off, or neither arrives nor ends, is not empty.
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

fn verdict(response: bool) -> Response {
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

/// The answer `true`, with the lease in its headers.
pub fn granted(lease: &Lease) -> Response {
    let mut answer = verdict(true);
    let headers = answer.headers_mut();
    let mut buffer = Uuid::encode_buffer();
    let lease_id = HeaderValue::from_str(lease.lease_id.hyphenated().encode_lower(&mut buffer));
    headers.insert(FENCING_TOKEN, HeaderValue::from(lease.fencing_token));
    headers.insert(LEASE_ID, lease_id.expect("a UUID is visible ASCII"));
    headers.insert(LEASE_MS, HeaderValue::from(lease.lease_ms));
    headers.insert(EXPIRES_IN_MS, HeaderValue::from(lease.expires_in_ms));
    headers.insert(WAITED_MS, HeaderValue::from(lease.waited_ms));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request keeps this future while it waits for the engine, and ten thousand may wait.
    #[test]
    fn a_waiting_request_is_small() {
        fn size<F>(
            _: impl FnOnce(&'static Api, NamedCall, Request, &'static RequestContext) -> F,
        ) -> usize {
            size_of::<F>()
        }
        assert!(
            size(super::answer) <= 1536,
            "{} bytes: box what is seldom needed",
            size(super::answer)
        );
    }
}

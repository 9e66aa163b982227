//! The calls about one lock, and the list of a namespace's locks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{OriginalUri, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Api;
use super::super::problem::{Code, Problem};
use super::access::{InNamespace, OfLock};
use super::body::{Body, Json, invalid, invalid_field, lease_refused};
use super::lease::{LeaseBody, LockBody, ModeName, limit_of, reason};
use super::query::Query;
use crate::locks::store::{self, LocksAfter};
use crate::locks::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, Lost, Mode, Release, ReleaseOutcome,
    fields,
};
use crate::namespaces;

/// The pause before a client asks for a lock of the public namespace again, milliseconds: the same
/// for all, so that it says nothing of the holder.
const RETRY_AFTER_PUBLIC_MS: i64 = 1000;
/// The longest pause that a client is told before it asks again, milliseconds.
const MAX_RETRY_AFTER_MS: i64 = 60_000;

/// An answer of JSON that nobody may keep.
pub fn json(body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("the API's bodies are always JSON");
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

/// A request for a lock. All fields are optional.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"wait_ms": 10000, "lease_ms": 30000, "holder": "worker-7:4711"}))]
pub struct AcquireBody {
    /// The lease's id, a UUID of the client's own: with it the request can be repeated, and has its
    /// effect once. Without one the service draws it.
    pub lease_id: Option<Uuid>,
    /// The length of the lease, milliseconds; by default the namespace's.
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub lease_ms: Option<i64>,
    /// How long to wait for the lock, milliseconds.
    #[schema(minimum = 0, maximum = 60_000, default = 0)]
    pub wait_ms: Option<i64>,
    /// `exclusive`, the default, or `shared`.
    #[schema(pattern = "^(exclusive|shared)$")]
    pub mode: Option<String>,
    /// Makes the lock a semaphore of so many permits. Not with `mode`.
    #[schema(minimum = 2, maximum = 1000)]
    pub limit: Option<i64>,
    /// The lease is never renewed beyond this long after its grant, milliseconds.
    #[schema(minimum = 1, maximum = 2_147_483_647_i64)]
    pub max_hold_ms: Option<i64>,
    /// A label for people, at most 256 bytes.
    #[schema(min_length = 1, max_length = 256)]
    pub holder: Option<String>,
    /// A JSON object for programs, at most 4 KiB.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

impl Body for AcquireBody {
    const IS_OPTIONAL: bool = true;
}

/// Checks a lease id that a client chose: a program that forgot to make one sends the nil UUID.
pub fn lease_id(pointer: &str, lease_id: Uuid) -> Result<Uuid, Problem> {
    if lease_id.is_nil() {
        return Err(invalid(pointer, "lease_id is the nil UUID: draw one"));
    }
    Ok(lease_id)
}

/// Takes the lock, waits for it, or refuses.
#[utoipa::path(
    post, path = "/v2/namespaces/{namespace}/locks/{name}/acquire", operation_id = "acquire",
    tag = "locks",
    params(
        ("namespace" = String, Path, description = "`public`, or a namespace of your own"),
        ("name" = String, Path, description = "The lock's name, percent-encoded"),
    ),
    request_body(content = AcquireBody, description = "May be left out"),
    responses((status = 200, description = "The lock is yours", body = LeaseBody)),
)]
pub async fn acquire(
    State(api): State<Arc<Api>>,
    lock: OfLock,
    Json(body): Json<AcquireBody>,
) -> Result<Response, Problem> {
    let arrived_at = Instant::now();
    let request = acquire_request(&lock, body)?;
    let (waits, mode) = (request.wait_ms > 0, request.mode);
    let outcome = api.app.locks.acquire(request).await?;
    let waited = if waits {
        arrived_at.elapsed()
    } else {
        Duration::ZERO
    };
    match outcome {
        AcquireOutcome::Granted(lease) => {
            let name = lock.key.name.as_str();
            Ok(json(&LeaseBody::new(&lock.namespace.name, name, lease)))
        }
        AcquireOutcome::LimitConflict { in_force } if !lock.namespace.is_public => {
            Err(limit_conflict(mode, in_force))
        }
        AcquireOutcome::Held | AcquireOutcome::LimitConflict { .. } => {
            Err(lock_held(&api, &lock, waited).await)
        }
        AcquireOutcome::LeaseEnded => Err(lease_id_used()),
    }
}

/// The lease of the request's id has ended.
pub fn lease_id_used() -> Problem {
    Problem::new(
        Code::LeaseIdUsed,
        "The lease of this lease_id has ended, and an id serves one lease of a lock. Nothing was \
         done; to take the lock again, draw a new id.",
    )
}

fn acquire_request(lock: &OfLock, body: AcquireBody) -> Result<Acquire, Problem> {
    let (caller, namespace) = (&lock.access.caller, &lock.namespace);
    namespace.check_in_plan()?;
    let refused = |error| invalid_field("", &error);
    let lease_ms = namespace
        .lease_ms(caller, body.lease_ms)
        .map_err(|error| lease_refused("/lease_ms", error))?;
    let chosen_id = body
        .lease_id
        .map(|id| lease_id("/lease_id", id))
        .transpose()?;
    Ok(Acquire {
        key: lock.key.clone(),
        account_id: caller.account_id,
        token_id: caller.token_id,
        lease_id: chosen_id
            .unwrap_or_else(|| uuid::Builder::from_random_bytes(rand::random()).into_uuid()),
        // Every lease of version 2 needs its id.
        needs_proof: true,
        lease_ms,
        requested_ms: body.lease_ms.map(|_| lease_ms),
        holder: body
            .holder
            .map(fields::holder)
            .transpose()
            .map_err(refused)?,
        metadata: body
            .metadata
            .map(fields::metadata)
            .transpose()
            .map_err(refused)?
            .map(Box::new),
        mode: fields::mode(body.mode.as_deref(), body.limit).map_err(refused)?,
        max_hold_ms: body
            .max_hold_ms
            .map(fields::max_hold_ms)
            .transpose()
            .map_err(refused)?,
        wait_ms: fields::wait_ms(body.wait_ms.unwrap_or(0)).map_err(refused)?,
        max_live_locks: caller.limits.max_live_locks,
        max_waiters: caller.limits.max_waiters,
        max_waiters_of_lock: namespace.max_waiters_of_lock(),
    })
}

fn limit_conflict(asked: Mode, in_force: Mode) -> Problem {
    let words = |mode| match mode {
        Mode::Exclusive => "exclusive".to_owned(),
        Mode::Shared => "shared".to_owned(),
        Mode::Semaphore { limit } => format!("a semaphore of {limit} permits"),
    };
    let detail = format!(
        "The lock is in use as {}, and you asked for {}. Nothing was done; all programs that use \
         a lock have to agree on its mode and limit.",
        words(in_force),
        words(asked)
    );
    Problem::new(Code::LimitConflict, detail)
        .with_field("mode", mode_name(in_force))
        .with_field("limit", limit_of(in_force))
}

fn mode_name(mode: Mode) -> Value {
    serde_json::to_value(ModeName::from(mode)).unwrap_or_default()
}

async fn lock_held(api: &Api, lock: &OfLock, waited: Duration) -> Problem {
    let waited_ms = i64::try_from(waited.as_millis()).unwrap_or(i64::MAX);
    let detail = if waited_ms > 0 {
        "The lock did not become yours in the time that you waited. To go on waiting, send the \
         same request with the same lease_id within 20 seconds: its place is kept."
    } else {
        "The lock is held, or others wait for it. To wait for it, send wait_ms."
    };
    let problem = Problem::new(Code::LockHeld, detail).with_field("waited_ms", waited_ms);
    if lock.namespace.is_public {
        return problem.with_field("retry_after_ms", RETRY_AFTER_PUBLIC_MS);
    }
    // The refusal stands without them.
    let view = store::find(&api.app.db, lock.namespace.id, &lock.key.name).await;
    let Ok(view) = view else {
        return problem.with_field("retry_after_ms", RETRY_AFTER_PUBLIC_MS);
    };
    let body = LockBody::new(&lock.namespace.name, lock.key.name.as_str(), view, None);
    let first_end = body.leases.iter().map(|lease| lease.expires_in_ms).min();
    problem
        .with_field(
            "retry_after_ms",
            first_end
                .unwrap_or(RETRY_AFTER_PUBLIC_MS)
                .clamp(1, MAX_RETRY_AFTER_MS),
        )
        .with_field(
            "leases",
            serde_json::to_value(&body.leases).unwrap_or_default(),
        )
        .with_field("queue_length", body.queue_length)
}

/// A heartbeat.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"lease_id": "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11"}))]
pub struct HeartbeatBody {
    /// The lease.
    pub lease_id: Uuid,
    /// The length to renew by, milliseconds; by default the length that it was granted with.
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub lease_ms: Option<i64>,
}

impl Body for HeartbeatBody {}

/// Renews a lease.
#[utoipa::path(
    post, path = "/v2/namespaces/{namespace}/locks/{name}/heartbeat", operation_id = "heartbeat",
    tag = "locks",
    params(
        ("namespace" = String, Path, description = "`public`, or a namespace of your own"),
        ("name" = String, Path, description = "The lock's name, percent-encoded"),
    ),
    request_body = HeartbeatBody,
    responses((status = 200, description = "The lease lasts its full length again, or to its \
        hold limit", body = LeaseBody)),
)]
pub async fn heartbeat(
    State(api): State<Arc<Api>>,
    lock: OfLock,
    Json(body): Json<HeartbeatBody>,
) -> Result<Response, Problem> {
    let limits = &lock.access.caller.limits;
    let request = Heartbeat {
        key: lock.key.clone(),
        account_id: lock.access.account_id(),
        lease_id: Some(lease_id("/lease_id", body.lease_id)?),
        lease_ms: body
            .lease_ms
            .map(|lease_ms| limits.check_lease_ms(lease_ms))
            .transpose()
            .map_err(|error| lease_refused("/lease_ms", error))?,
    };
    match api.app.locks.heartbeat(request).await? {
        HeartbeatOutcome::Renewed(lease) => {
            let name = lock.key.name.as_str();
            Ok(json(&LeaseBody::new(&lock.namespace.name, name, lease)))
        }
        HeartbeatOutcome::Lost(lost) => Err(lease_lost(lost)),
    }
}

/// A release.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"lease_id": "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11"}))]
pub struct ReleaseBody {
    /// The lease.
    pub lease_id: Uuid,
}

impl Body for ReleaseBody {}

/// The answer to a release.
#[derive(Debug, Serialize, ToSchema)]
pub struct Released {
    /// Always true: the lease was ended by this request, or by an earlier one with its id.
    pub released: bool,
}

/// Ends a lease.
#[utoipa::path(
    post, path = "/v2/namespaces/{namespace}/locks/{name}/release", operation_id = "release",
    tag = "locks",
    params(
        ("namespace" = String, Path, description = "`public`, or a namespace of your own"),
        ("name" = String, Path, description = "The lock's name, percent-encoded"),
    ),
    request_body = ReleaseBody,
    responses((status = 200, description = "The lease has ended", body = Released)),
)]
pub async fn release(
    State(api): State<Arc<Api>>,
    lock: OfLock,
    Json(body): Json<ReleaseBody>,
) -> Result<Response, Problem> {
    let request = Release {
        key: lock.key.clone(),
        account_id: lock.access.account_id(),
        lease_id: Some(lease_id("/lease_id", body.lease_id)?),
    };
    match api.app.locks.release(request).await? {
        ReleaseOutcome::Released => Ok(json(&Released { released: true })),
        ReleaseOutcome::Lost(lost) => Err(lease_lost(lost)),
    }
}

/// There is no lease to renew, release or break.
pub fn lease_lost(lost: Lost) -> Problem {
    let detail = match lost {
        Lost::Expired => "The lease has expired: it was not renewed in time.",
        Lost::Released => "The lease was released.",
        Lost::Broken => "The lease was broken: ended by somebody with the right to do so.",
        Lost::Superseded => {
            "The lease has expired, and the lock was granted to another request since."
        }
        Lost::HoldLimit => "The lease has reached its max_hold_ms.",
        Lost::NeverGranted => {
            "The lease was released before it was granted, and is not granted any more."
        }
        Lost::Unknown | Lost::Unproved => {
            "Your account has no lease of this lease_id for this lock, or it ended more than an \
             hour ago."
        }
    };
    Problem::new(Code::LeaseLost, detail).with_field("reason", reason(lost))
}

/// State, leases and queue of a lock.
#[utoipa::path(
    get, path = "/v2/namespaces/{namespace}/locks/{name}", operation_id = "get_lock",
    tag = "locks",
    params(
        ("namespace" = String, Path, description = "`public`, or a namespace of your own"),
        ("name" = String, Path, description = "The lock's name, percent-encoded"),
    ),
    responses((status = 200, description = "The lock; also of one that was never taken",
        body = LockBody)),
)]
pub async fn get(State(api): State<Arc<Api>>, lock: OfLock) -> Result<Response, Problem> {
    let view = store::find(&api.app.db, lock.namespace.id, &lock.key.name).await?;
    let public_to = lock.namespace.is_public.then_some(lock.access.account_id());
    let name = lock.key.name.as_str();
    Ok(json(&LockBody::new(
        &lock.namespace.name,
        name,
        view,
        public_to,
    )))
}

/// Locks of a namespace, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
pub struct Locks {
    /// The locks.
    pub locks: Vec<LockBody>,
    /// What to send as `cursor` for those that follow; null at the end.
    pub next_cursor: Option<String>,
}

/// The held locks of a private namespace.
#[utoipa::path(
    get, path = "/v2/namespaces/{namespace}/locks", operation_id = "list_locks", tag = "locks",
    params(
        ("namespace" = String, Path, description = "A namespace of your own"),
        ("prefix" = Option<String>, Query, description = "Only names that begin so"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<i32>, Query, minimum = 1, maximum = 1000,
            description = "The most locks of the page; by default 100"),
    ),
    responses((status = 200, description = "A page of the held locks", body = Locks)),
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    place: InNamespace,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let namespace = place.namespace;
    if namespace.is_public {
        let detail = format!(
            "The locks of {} are not listed: all accounts share it. Ask about one lock by its \
             name.",
            namespaces::PUBLIC
        );
        return Err(Problem::new(Code::NotFound, detail));
    }
    let query = Query::parse(uri.query(), &["prefix", "cursor", "limit"])?;
    let limit = query.limit()?;
    let page = LocksAfter {
        prefix: query.get("prefix").unwrap_or_default(),
        after: query.cursor()?,
        limit: limit.into(),
    };
    let mut found = store::list_of_namespace(&api.app.db, namespace.id, page).await?;
    let has_more = found.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if has_more {
        found.pop();
    }
    let next_cursor = has_more
        .then(|| {
            found
                .last()
                .map(|(name, _)| super::query::encode_cursor(name))
        })
        .flatten();
    let locks = found
        .into_iter()
        .map(|(name, view)| LockBody {
            queue: None,
            ..LockBody::new(&namespace.name, &name, view, None)
        })
        .collect();
    Ok(json(&Locks { locks, next_cursor }))
}

//! The calls about many leases at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Api;
use super::super::problem::{Code, Problem};
use super::access::{Access, InNamespace};
use super::body::{Body, Json, Object, invalid, invalid_field, lease_refused};
use super::lease::{LeaseBody, reason};
use super::locks::{json, lease_id, lease_id_used};
use crate::id::NamespaceId;
use crate::locks::{
    AcquireAll, AcquireAllOutcome, EngineError, Heartbeat, HeartbeatOutcome, LockKey, LockName,
    Lost, MAX_TOGETHER, Release, ReleaseOutcome, fields,
};
use crate::text::sentence;

/// The most leases of one request.
const MAX_LEASES: usize = 1000;
/// So many leases count as one request against the plan's rate.
const LEASES_PER_REQUEST: usize = 10;

/// A lease of a lock.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct LeaseToRenew {
    /// The lock's namespace.
    pub namespace: String,
    /// The lock's name.
    pub name: String,
    /// The lease.
    pub lease_id: Uuid,
    /// The length to renew by, milliseconds; by default the length that it was granted with.
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub lease_ms: Option<i64>,
}

/// Leases to renew.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct HeartbeatsBody {
    /// At most 1,000, none twice.
    #[schema(min_items = 1, max_items = 1000, value_type = Vec<LeaseToRenew>)]
    pub leases: Vec<Object<LeaseToRenew>>,
}

impl Body for HeartbeatsBody {
    const MAX_BYTES: usize = 1024 * 1024;
}

/// A lease to end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct LeaseToRelease {
    /// The lock's namespace.
    pub namespace: String,
    /// The lock's name.
    pub name: String,
    /// The lease.
    pub lease_id: Uuid,
}

/// Leases to end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct ReleasesBody {
    /// At most 1,000, none twice.
    #[schema(min_items = 1, max_items = 1000, value_type = Vec<LeaseToRelease>)]
    pub leases: Vec<Object<LeaseToRelease>>,
}

impl Body for ReleasesBody {
    const MAX_BYTES: usize = 1024 * 1024;
}

/// Why one of many leases was not renewed or released.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failure {
    /// `lease-lost`, or `unavailable` if the outcome is not known.
    pub code: &'static str,
    /// Why the lease is lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl Failure {
    fn lost(lost: Lost) -> Self {
        Self {
            code: Code::LeaseLost.as_str(),
            reason: Some(reason(lost)),
        }
    }

    fn unavailable() -> Self {
        Self {
            code: Code::Unavailable.as_str(),
            reason: None,
        }
    }
}

/// The outcome of one of many heartbeats.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum HeartbeatResult {
    /// The lease lasts its full length again.
    Renewed(Box<LeaseBody>),
    /// It was not renewed.
    Failed(Failure),
}

/// The outcome of many heartbeats.
#[derive(Debug, Serialize, ToSchema)]
pub struct Heartbeats {
    /// The number of leases that were renewed.
    pub renewed: usize,
    /// The number of the others.
    pub failed: usize,
    /// The outcomes, in the order of the request.
    pub results: Vec<HeartbeatResult>,
}

/// The outcome of one of many releases.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ReleaseResult {
    /// The lease has ended.
    Released {
        /// Always true.
        released: bool,
    },
    /// It was not released.
    Failed(Failure),
}

/// The outcome of many releases.
#[derive(Debug, Serialize, ToSchema)]
pub struct Releases {
    /// The number of leases that were released.
    pub released: usize,
    /// The number of the others.
    pub failed: usize,
    /// The outcomes, in the order of the request.
    pub results: Vec<ReleaseResult>,
}

/// The locks of a request about many leases.
struct Named {
    /// `None` where the caller has no such namespace: it has no lease there.
    keys: Vec<Option<LockKey>>,
}

impl Named {
    async fn resolve(
        api: &Api,
        access: &Access,
        leases: &[(&str, &str, Uuid)],
    ) -> Result<Self, Problem> {
        if leases.is_empty() || leases.len() > MAX_LEASES {
            return Err(invalid(
                "/leases",
                format_args!("leases has to have 1 to {MAX_LEASES} entries"),
            ));
        }
        let mut seen = HashSet::new();
        let mut names = Vec::with_capacity(leases.len());
        for (at, lease) in leases.iter().enumerate() {
            if !seen.insert(lease) {
                return Err(invalid(
                    format!("/leases/{at}"),
                    "this lease stands twice in the list",
                ));
            }
            let (_, name, id) = lease;
            lease_id(&format!("/leases/{at}/lease_id"), *id)?;
            names.push(lock_name(&format!("/leases/{at}/name"), name)?);
        }
        access.count_as(api, leases.len().div_ceil(LEASES_PER_REQUEST))?;
        let mut namespaces: HashMap<&str, Option<NamespaceId>> = HashMap::new();
        let mut keys = Vec::with_capacity(leases.len());
        for ((namespace, ..), name) in leases.iter().zip(names) {
            let id = match namespaces.get(namespace) {
                Some(id) => *id,
                None => {
                    let id = match access.namespace(api, namespace).await {
                        Ok(found) => Some(found.id),
                        Err(problem) if problem.code() == Code::NotFound => None,
                        Err(problem) => return Err(problem),
                    };
                    namespaces.insert(namespace, id);
                    id
                }
            };
            keys.push(id.map(|namespace_id| LockKey { namespace_id, name }));
        }
        Ok(Self { keys })
    }
}

fn lock_name(pointer: &str, name: &str) -> Result<LockName, Problem> {
    LockName::new(name).map_err(|error| {
        let rule = sentence(&error);
        invalid(pointer, rule.trim_end_matches('.'))
    })
}

/// Puts the engine's outcomes where their requests were; the others are lost.
fn in_order<T, R>(
    keys: &[Option<LockKey>],
    outcomes: Vec<T>,
    known: impl Fn(usize, T) -> R,
    unknown: impl Fn() -> R,
) -> Vec<R> {
    let mut outcomes = outcomes.into_iter();
    let at = |(at, key): (usize, &Option<LockKey>)| match key {
        Some(_) => outcomes
            .next()
            .map_or_else(&unknown, |outcome| known(at, outcome)),
        None => unknown(),
    };
    keys.iter().enumerate().map(at).collect()
}

/// Renews many leases, each by itself. Counts as one request per 10 leases.
#[utoipa::path(
    post, path = "/v2/heartbeats", operation_id = "heartbeats", tag = "leases",
    request_body = HeartbeatsBody,
    responses((status = 200, description = "What became of each lease", body = Heartbeats)),
)]
pub async fn heartbeats(
    State(api): State<Arc<Api>>,
    access: Access,
    Json(body): Json<HeartbeatsBody>,
) -> Result<Response, Problem> {
    api.app.locks.check_room()?;
    let leases: Vec<_> = body
        .leases
        .iter()
        .map(|Object(lease)| (&*lease.namespace, &*lease.name, lease.lease_id))
        .collect();
    let named = Named::resolve(&api, &access, &leases).await?;
    let limits = &access.caller.limits;
    let mut requests = Vec::with_capacity(body.leases.len());
    for (at, (Object(lease), key)) in body.leases.iter().zip(&named.keys).enumerate() {
        let lease_ms = lease
            .lease_ms
            .map(|lease_ms| limits.check_lease_ms(lease_ms))
            .transpose()
            .map_err(|error| lease_refused(&format!("/leases/{at}/lease_ms"), error))?;
        requests.extend(key.clone().map(|key| Heartbeat {
            key,
            account_id: access.account_id(),
            lease_id: Some(lease.lease_id),
            lease_ms,
        }));
    }
    let outcomes = api.app.locks.heartbeats(requests).await;
    let known = |at: usize, outcome: Result<HeartbeatOutcome, EngineError>| match outcome {
        Ok(HeartbeatOutcome::Renewed(lease)) => {
            let LeaseToRenew {
                namespace, name, ..
            } = &body.leases[at].0;
            HeartbeatResult::Renewed(Box::new(LeaseBody::new(namespace, name, lease)))
        }
        Ok(HeartbeatOutcome::Lost(lost)) => HeartbeatResult::Failed(Failure::lost(lost)),
        Err(_) => HeartbeatResult::Failed(Failure::unavailable()),
    };
    let unknown = || HeartbeatResult::Failed(Failure::lost(Lost::Unknown));
    let results = in_order(&named.keys, outcomes, known, unknown);
    let is_renewed = |result: &&HeartbeatResult| matches!(result, HeartbeatResult::Renewed(_));
    let renewed = results.iter().filter(is_renewed).count();
    Ok(json(&Heartbeats {
        renewed,
        failed: results.len() - renewed,
        results,
    }))
}

/// Ends many leases, each by itself. Counts as one request per 10 leases.
#[utoipa::path(
    post, path = "/v2/releases", operation_id = "releases", tag = "leases",
    request_body = ReleasesBody,
    responses((status = 200, description = "What became of each lease", body = Releases)),
)]
pub async fn releases(
    State(api): State<Arc<Api>>,
    access: Access,
    Json(body): Json<ReleasesBody>,
) -> Result<Response, Problem> {
    api.app.locks.check_room()?;
    let leases: Vec<_> = body
        .leases
        .iter()
        .map(|Object(lease)| (&*lease.namespace, &*lease.name, lease.lease_id))
        .collect();
    let named = Named::resolve(&api, &access, &leases).await?;
    let requests = body
        .leases
        .iter()
        .zip(&named.keys)
        .filter_map(|(Object(lease), key)| {
            Some(Release {
                key: key.clone()?,
                account_id: access.account_id(),
                lease_id: Some(lease.lease_id),
            })
        })
        .collect();
    let outcomes = api.app.locks.releases(requests).await;
    let known = |_, outcome: Result<ReleaseOutcome, EngineError>| match outcome {
        Ok(ReleaseOutcome::Released) => ReleaseResult::Released { released: true },
        Ok(ReleaseOutcome::Lost(lost)) => ReleaseResult::Failed(Failure::lost(lost)),
        Err(_) => ReleaseResult::Failed(Failure::unavailable()),
    };
    let unknown = || ReleaseResult::Failed(Failure::lost(Lost::Unknown));
    let results = in_order(&named.keys, outcomes, known, unknown);
    let is_released = |result: &&ReleaseResult| matches!(result, ReleaseResult::Released { .. });
    let released = results.iter().filter(is_released).count();
    Ok(json(&Releases {
        released,
        failed: results.len() - released,
        results,
    }))
}

/// A request for several locks or none.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"names": ["accounts/7", "accounts/9"], "lease_ms": 30000}))]
pub struct AcquireAllBody {
    /// The locks' names: 1 to 50, none twice.
    #[schema(min_items = 1, max_items = 50)]
    pub names: Vec<String>,
    /// The id of all the leases, a UUID of the client's own. Without one the service draws it.
    pub lease_id: Option<Uuid>,
    /// The length of the leases, milliseconds; by default the namespace's.
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub lease_ms: Option<i64>,
    /// The leases are never renewed beyond this long after their grant, milliseconds.
    #[schema(minimum = 1, maximum = 2_147_483_647_i64)]
    pub max_hold_ms: Option<i64>,
    /// A label for people, at most 256 bytes.
    #[schema(min_length = 1, max_length = 256)]
    pub holder: Option<String>,
    /// A JSON object for programs, at most 4 KiB.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
}

impl Body for AcquireAllBody {}

/// The leases of several locks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Leases {
    /// A lease for each name, in the order of the request.
    pub leases: Vec<LeaseBody>,
}

/// Takes several locks, or none. It does not wait.
#[utoipa::path(
    post, path = "/v2/namespaces/{namespace}/acquire-all", operation_id = "acquire_all",
    tag = "locks",
    params(("namespace" = String, Path, description = "`public`, or a namespace of your own")),
    request_body = AcquireAllBody,
    responses((status = 200, description = "All locks are yours", body = Leases)),
)]
pub async fn acquire_all(
    State(api): State<Arc<Api>>,
    place: InNamespace,
    Json(body): Json<AcquireAllBody>,
) -> Result<Response, Problem> {
    let InNamespace { access, namespace } = place;
    api.app.locks.check_room()?;
    namespace.check_in_plan()?;
    let names = check_names(&body.names)?;
    let caller = &access.caller;
    let lease_ms = namespace
        .lease_ms(caller, body.lease_ms)
        .map_err(|error| lease_refused("/lease_ms", error))?;
    let refused = |error| invalid_field("", &error);
    let chosen_id = body
        .lease_id
        .map(|id| lease_id("/lease_id", id))
        .transpose()?;
    let request = AcquireAll {
        namespace_id: namespace.id,
        names,
        account_id: caller.account_id,
        token_id: caller.token_id,
        lease_id: chosen_id
            .unwrap_or_else(|| uuid::Builder::from_random_bytes(rand::random()).into_uuid()),
        lease_ms,
        requested_ms: body.lease_ms.map(|_| lease_ms),
        max_hold_ms: body
            .max_hold_ms
            .map(fields::max_hold_ms)
            .transpose()
            .map_err(refused)?,
        holder: body
            .holder
            .map(fields::holder)
            .transpose()
            .map_err(refused)?,
        metadata: body
            .metadata
            .map(fields::metadata)
            .transpose()
            .map_err(refused)?,
        max_live_locks: caller.limits.max_live_locks,
    };
    match api.app.locks.acquire_all(request).await? {
        AcquireAllOutcome::Granted(leases) => {
            let leases = body.names.iter().zip(leases);
            let leases = leases
                .map(|(name, lease)| LeaseBody::new(&namespace.name, name, lease))
                .collect();
            Ok(json(&Leases { leases }))
        }
        AcquireAllOutcome::Held(names) => {
            let held: Vec<&str> = names.iter().map(LockName::as_str).collect();
            let detail = "Some of the locks are held, or others wait for them: held has their \
                          names. None was taken.";
            Err(Problem::new(Code::LockHeld, detail)
                .with_field("held", held)
                .with_field("waited_ms", 0))
        }
        AcquireAllOutcome::LeaseEnded => Err(lease_id_used()),
        AcquireAllOutcome::TooManyLocks => Err(EngineError::TooManyLocks {
            max: caller.limits.max_live_locks,
        }
        .into()),
    }
}

fn check_names(names: &[String]) -> Result<Vec<LockName>, Problem> {
    if names.is_empty() || names.len() > MAX_TOGETHER {
        return Err(invalid(
            "/names",
            format_args!("names has to have 1 to {MAX_TOGETHER} entries"),
        ));
    }
    let mut seen = HashSet::new();
    let mut checked = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        let pointer = format!("/names/{at}");
        if !seen.insert(name) {
            return Err(invalid(pointer, "this name stands twice in the list"));
        }
        checked.push(lock_name(&pointer, name)?);
    }
    Ok(checked)
}

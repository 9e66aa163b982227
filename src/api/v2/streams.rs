//! Streams of events, as Server-Sent Events: of a namespace, or of one lock with its state.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{OriginalUri, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::stream;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Api;
use super::super::problem::{Code, Problem};
use super::access::{Access, InNamespace, Namespace, OfLock};
use super::history::EventBody;
use super::lease::{ModeName, State as HeldOrFree, instant, limit_of};
use super::query::Query;
use crate::events::{self, LiveLease, LockState, Scope, Sight, Watch};
use crate::locks::Mode;

/// How often a stream says that it lives, so that nobody on the way takes it for idle.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// The id of the last event that a client has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Asks proxies (nginx) not to hold a stream back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The state of a lock, when it has changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct StateBody {
    /// The lock's namespace.
    pub namespace: String,
    /// The lock's name.
    pub name: String,
    /// Whether it is held.
    pub state: HeldOrFree,
    /// The first 100 leases that hold it, in the order of their grants.
    pub leases: Vec<LiveLeaseBody>,
    /// The number of requests that wait for it.
    pub queue_length: i64,
}

/// A lease that holds a lock.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveLeaseBody {
    /// Its id.
    pub lease_id: Uuid,
    /// Its fencing token.
    pub fencing_token: i64,
    /// How many leases may hold the lock beside it.
    pub mode: ModeName,
    /// The number of permits, of a semaphore.
    pub limit: Option<i32>,
    /// The number of its permit.
    pub slot: Option<i32>,
    /// The client's label for people.
    pub holder: Option<String>,
    /// When it was granted, on the service's clock.
    #[serde(serialize_with = "instant")]
    pub acquired_at: DateTime<Utc>,
    /// When it ends unless it is renewed, on the service's clock.
    #[serde(serialize_with = "instant")]
    pub expires_at: DateTime<Utc>,
    /// The time until then, milliseconds.
    pub expires_in_ms: i64,
}

impl From<&LiveLease> for LiveLeaseBody {
    fn from(lease: &LiveLease) -> Self {
        let mode = Mode::from_permits(lease.permits);
        Self {
            lease_id: lease.lease_id,
            fencing_token: lease.fencing_token,
            mode: mode.into(),
            limit: limit_of(mode),
            slot: lease.slot.filter(|_| limit_of(mode).is_some()),
            holder: lease.holder.clone(),
            acquired_at: lease.acquired_at,
            expires_at: lease.expires_at,
            expires_in_ms: lease.remaining_ms,
        }
    }
}

/// The events of a namespace's locks as they happen: Server-Sent Events, one to two seconds behind.
/// `event:` is the kind, `data:` the event, `id:` its id. A client that was cut off sends the last
/// id as `Last-Event-ID`, to any node, and misses nothing; where events are missing all the same, a
/// `gap` says so.
#[utoipa::path(
    get, path = "/v2/namespaces/{namespace}/events", operation_id = "namespace_events",
    tag = "events",
    params(
        ("namespace" = String, Path, description = "A namespace of your own"),
        ("Last-Event-ID" = Option<i64>, Header,
            description = "The id of the last event that was seen; by default, the stream begins \
                with the next event"),
    ),
    responses((status = 200, description = "The events, without end", body = EventBody,
        content_type = "text/event-stream")),
)]
pub async fn of_namespace(
    State(api): State<Arc<Api>>,
    place: InNamespace,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::parse(uri.query(), &[])?;
    let InNamespace { access, namespace } = place;
    stream_of(&api, &access, namespace, None, &headers).await
}

/// The events of a lock as they happen, as those of a namespace; and its `state`, at first and when
/// it has changed: who holds it, for how long, and how many wait.
#[utoipa::path(
    get, path = "/v2/namespaces/{namespace}/locks/{name}/events", operation_id = "lock_events",
    tag = "events",
    params(
        ("namespace" = String, Path, description = "A namespace of your own"),
        ("name" = String, Path, description = "The lock's name, percent-encoded"),
        ("Last-Event-ID" = Option<i64>, Header,
            description = "The id of the last event that was seen; by default, the stream begins \
                with the next event"),
    ),
    responses((status = 200, description = "The events and states, without end",
        content((EventBody = "text/event-stream"), (StateBody = "text/event-stream")))),
)]
pub async fn of_lock(
    State(api): State<Arc<Api>>,
    lock: OfLock,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Query::parse(uri.query(), &[])?;
    let name = lock.key.name.shared();
    stream_of(&api, &lock.access, lock.namespace, Some(name), &headers).await
}

async fn stream_of(
    api: &Api,
    access: &Access,
    namespace: Namespace,
    name: Option<Arc<str>>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let scope = Scope {
        namespace_id: namespace.id,
        name: name.clone(),
    };
    let access = events::Access {
        account_id: access.account_id(),
        token_id: Some(access.caller.token_id),
    };
    let after = last_event_id(headers)?;
    let watch = Watch::start(&api.app.events, scope, access, after).await?;
    let shown = Shown {
        namespace: namespace.name,
        name: name.as_deref().unwrap_or_default().to_owned(),
    };
    let events = stream::unfold((watch, shown), async |(mut watch, shown)| {
        let sight = watch.next().await?;
        let event = shown.event(sight);
        Some((Ok::<_, Infallible>(event), (watch, shown)))
    });
    let keep_alive = KeepAlive::new().interval(COMMENT_EVERY);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let headers = response.headers_mut();
    let no_store = HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    // A browser that has seen no event yet sends none, or an empty one.
    if text.is_empty() {
        return Ok(None);
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let id = is_number.then(|| text.parse().ok()).flatten();
    id.map(Some).ok_or_else(|| {
        let detail = "Last-Event-ID has to be the id of an event, unchanged.";
        Problem::new(Code::InvalidParameter, detail)
    })
}

/// What is watched, as the stream shows it.
struct Shown {
    namespace: String,
    name: String,
}

impl Shown {
    fn event(&self, sight: Sight) -> SseEvent {
        match sight {
            // Without data it is no event, but a client that is cut off now resumes here.
            Sight::Position(id) => SseEvent::default().id(id.to_string()).comment("watching"),
            Sight::Event(event) => {
                let id = event.event_id.to_string();
                let kind = event.kind.as_str();
                let body = EventBody::new(&self.namespace, Arc::unwrap_or_clone(event));
                SseEvent::default().id(id).event(kind).data(text(&body))
            }
            Sight::State(state) => SseEvent::default()
                .event("state")
                .data(text(&self.state(&state))),
        }
    }

    fn state(&self, state: &LockState) -> StateBody {
        StateBody {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            state: if state.leases.is_empty() {
                HeldOrFree::Free
            } else {
                HeldOrFree::Held
            },
            leases: state.leases.iter().map(LiveLeaseBody::from).collect(),
            queue_length: state.queue_length,
        }
    }
}

fn text(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("the API's bodies are always JSON")
}

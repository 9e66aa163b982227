//! The history of a lock: what happened to it, newest first.

use std::sync::Arc;

use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Api;
use super::super::problem::{Code, Problem};
use super::access::OfLock;
use super::lease::instant;
use super::locks::json;
use super::query::{Query, encode_cursor};
use crate::events::{self, Event, EventKind};

/// What happened to a lock of a private namespace: a record for people. The service itself decides
/// nothing by it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event, example = json!({
    "id": 4711, "event": "released", "at": "2026-11-27T05:00:30.456Z", "namespace": "team",
    "name": "nightly", "lease_id": "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11", "fencing_token": 42,
    "holder": "worker-7:4711", "token_label": "ci", "waited_ms": null, "held_ms": 30333,
    "reason": null
}))]
pub struct EventBody {
    /// Ascending in the order of events; there are gaps.
    pub id: i64,
    /// What happened.
    pub event: EventName,
    /// When, on the service's clock.
    #[serde(serialize_with = "instant")]
    pub at: DateTime<Utc>,
    /// The lock's namespace.
    pub namespace: String,
    /// The lock's name; null of a gap.
    pub name: Option<String>,
    /// The lease's id.
    pub lease_id: Option<Uuid>,
    /// The lease's fencing token; null of a gap.
    pub fencing_token: Option<i64>,
    /// The client's label for people.
    pub holder: Option<String>,
    /// The label of the API token that took the lock, at that time.
    pub token_label: Option<String>,
    /// Of a grant: how long its request waited, milliseconds.
    pub waited_ms: Option<i32>,
    /// Of the end of a lease: how long it lasted, milliseconds.
    pub held_ms: Option<i64>,
    /// Of a break: its reason. Of an expiry: `hold-limit` if the lease had reached its
    /// `max_hold_ms`. Of a gap: why there is one.
    pub reason: Option<String>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventName {
    /// Events were lost here, or are past the time for which they are kept.
    Gap,
    /// A lease began.
    Granted,
    /// A lease was ended by its holder.
    Released,
    /// A lease was not renewed in time.
    Expired,
    /// A lease was ended by force.
    Broken,
}

impl From<EventKind> for EventName {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Gap => Self::Gap,
            EventKind::Granted => Self::Granted,
            EventKind::Released => Self::Released,
            EventKind::Expired => Self::Expired,
            EventKind::Broken => Self::Broken,
        }
    }
}

impl EventBody {
    /// The event, of a namespace of this name.
    pub fn new(namespace: &str, event: Event) -> Self {
        Self {
            id: event.event_id,
            event: event.kind.into(),
            at: event.at,
            namespace: namespace.to_owned(),
            name: event.name,
            lease_id: event.lease_id,
            fencing_token: event.fencing_token,
            holder: event.holder,
            token_label: event.token_label,
            waited_ms: event.waited_ms,
            held_ms: event.held_ms,
            reason: event.reason,
        }
    }
}

/// Events of a lock, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct History {
    /// The events.
    pub events: Vec<EventBody>,
    /// What to send as `cursor` for older ones; null at the end.
    pub next_cursor: Option<String>,
}

/// What happened to a lock of a private namespace, newest first, for as long as the plan says. It
/// is one to two seconds behind.
#[utoipa::path(
    get, path = "/v2/namespaces/{namespace}/locks/{name}/history", operation_id = "lock_history",
    tag = "events",
    params(
        ("namespace" = String, Path, description = "A namespace of your own"),
        ("name" = String, Path, description = "The lock's name, percent-encoded"),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<i32>, Query, minimum = 1, maximum = 1000,
            description = "The most events of the page; by default 100"),
    ),
    responses((status = 200, description = "A page of the lock's events", body = History)),
)]
pub async fn history(
    State(api): State<Arc<Api>>,
    lock: OfLock,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let query = Query::parse(uri.query(), &["cursor", "limit"])?;
    let limit = query.limit()?;
    let before = query.cursor()?.map(|cursor| cursor.parse::<i64>());
    let before = before.transpose().map_err(|_| {
        let detail = "cursor has to be the next_cursor of an earlier answer, unchanged.";
        Problem::new(Code::InvalidParameter, detail)
    })?;
    let (id, name) = (lock.namespace.id, lock.key.name.as_str());
    let limits = &lock.access.caller.limits;
    // One more, to know whether there are others.
    let most = i64::from(limit) + 1;
    let mut found = events::history(&api.app.db, limits, id, name, before, most).await?;
    let has_more = found.len() as i64 == most;
    if has_more {
        found.pop();
    }
    let last = found.last().filter(|_| has_more);
    let next_cursor = last.map(|event| encode_cursor(&event.event_id.to_string()));
    let events = found.into_iter();
    Ok(json(&History {
        events: events
            .map(|event| EventBody::new(&lock.namespace.name, event))
            .collect(),
        next_cursor,
    }))
}

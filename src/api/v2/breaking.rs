//! Leases that are ended by force.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::super::Api;
use super::super::problem::Problem;
use super::access::OfLock;
use super::body::{Body, Json, invalid};
use super::locks::{json, lease_id, lease_lost};
use crate::audit::InvalidReason;
use crate::locks::store::break_leases;
use crate::locks::{BreakError, LeasesToBreak, Lost};

/// Which leases to end, and why: one of `fencing_token`, `lease_id` and `all`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"reason": "the host is gone", "fencing_token": 42}))]
pub struct BreakBody {
    /// The reason, for the audit log and the holder's account: 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500)]
    pub reason: String,
    /// The lease with this fencing token.
    pub fencing_token: Option<i64>,
    /// The lease with this id.
    pub lease_id: Option<Uuid>,
    /// True for every lease of the lock.
    pub all: Option<bool>,
}

impl Body for BreakBody {}

/// The answer to a break.
#[derive(Debug, Serialize, ToSchema)]
pub struct Broken {
    /// The leases that were ended: by this request, or by an earlier one that named the same lease.
    pub broken: Vec<BrokenLease>,
}

/// A lease that was ended by force.
#[derive(Debug, Serialize, ToSchema)]
pub struct BrokenLease {
    /// Its id.
    pub lease_id: Uuid,
    /// Its fencing token.
    pub fencing_token: i64,
}

/// Ends leases by force. Needs the scope `manage`. In the public namespace it ends the account's
/// own leases, for an administrator's token those of all accounts.
#[utoipa::path(
    post, path = "/v2/namespaces/{namespace}/locks/{name}/break", operation_id = "break",
    tag = "locks",
    params(
        ("namespace" = String, Path, description = "`public`, or a namespace of your own"),
        ("name" = String, Path, description = "The lock's name, percent-encoded"),
    ),
    request_body = BreakBody,
    responses((status = 200, description = "The leases have ended", body = Broken)),
)]
pub async fn break_lock(
    State(api): State<Arc<Api>>,
    lock: OfLock,
    Json(body): Json<BreakBody>,
) -> Result<Response, Problem> {
    let access = &lock.access;
    access.require_manage()?;
    let is_any_accounts = lock.namespace.is_public && access.caller.is_admin;
    let leases = LeasesToBreak {
        account_id: (!is_any_accounts).then_some(access.account_id()),
        lease_id: body
            .lease_id
            .map(|id| lease_id("/lease_id", id))
            .transpose()?,
        fencing_token: body.fencing_token,
    };
    match (body.fencing_token, body.lease_id, body.all) {
        (Some(_), None, None | Some(false))
        | (None, Some(_), None | Some(false))
        | (None, None, Some(true)) => {}
        _ => {
            let detail = "give one of fencing_token, lease_id and \"all\": true, so that the next \
                          holder is never hit";
            return Err(invalid("", detail));
        }
    }
    let actor = access
        .caller
        .actor(access.context.client_ip(), access.context.id().to_string());
    let place = ((lock.namespace.id, &*lock.namespace.name), &lock.key.name);
    let broken = break_leases(&api.app.db, &actor, place, leases, &body.reason).await;
    match broken {
        Ok(broken) => {
            let broken = broken.into_iter().map(|lease| BrokenLease {
                lease_id: lease.lease_id,
                fencing_token: lease.fencing_token,
            });
            Ok(json(&Broken {
                broken: broken.collect(),
            }))
        }
        Err(BreakError::NotHeld) => Err(lease_lost(Lost::Unknown)),
        Err(BreakError::InvalidReason(error @ InvalidReason)) => Err(invalid("/reason", error)),
        Err(BreakError::Database(error)) => Err(error.into()),
    }
}

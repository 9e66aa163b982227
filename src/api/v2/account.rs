//! `/v2/account`: the account's plan, its limits and their use, and its activity.

use std::sync::Arc;

use axum::extract::{OriginalUri, State};
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::Api;
use super::super::problem::Problem;
use super::lease::instant;
use super::locks::json;
use super::manager::{Manager, cut_page, id_of_cursor};
use super::query::Query;
use crate::activity::{self, Entry};
use crate::locks::store::count_live;
use crate::namespaces;
use crate::plans::Limits;
use crate::tokens;

/// An account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Account, example = json!({
    "email": "ada@example.com", "created_at": "2026-11-27T05:00:00.123Z", "lease_ms": null,
    "plan": {"code": "business", "name": "Business"},
    "limits": {
        "lease_min_ms": 1000, "lease_default_ms": 60_000, "lease_max_ms": 86_400_000,
        "max_private_namespaces": 20, "max_tokens": 100, "max_live_locks": 1_000_000,
        "max_waiters": 10_000, "requests_per_second": 20_000
    },
    "use": {"private_namespaces": 2, "tokens": 5, "live_locks": 17}
}))]
pub struct AccountBody {
    /// Its e-mail address.
    pub email: String,
    /// When it was made.
    #[serde(serialize_with = "instant")]
    pub created_at: DateTime<Utc>,
    /// The length of its leases where neither request nor namespace says, milliseconds; null for
    /// the plan's.
    pub lease_ms: Option<i32>,
    /// Its plan.
    pub plan: PlanBody,
    /// The limits of the plan.
    pub limits: LimitsBody,
    /// How much of them the account uses.
    #[serde(rename = "use")]
    pub used: UseBody,
}

/// The plan of an account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
pub struct PlanBody {
    /// Its code, which never changes.
    pub code: String,
    /// Its name.
    pub name: String,
}

/// The limits of a plan.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limits)]
pub struct LimitsBody {
    /// The shortest lease, milliseconds.
    pub lease_min_ms: i32,
    /// The lease if neither request nor namespace nor account says, milliseconds.
    pub lease_default_ms: i32,
    /// The longest lease, milliseconds. If it equals the shortest, the lease is fixed.
    pub lease_max_ms: i32,
    /// The most private namespaces.
    pub max_private_namespaces: i32,
    /// The most API tokens.
    pub max_tokens: i32,
    /// The most locks that the account holds or waits for at once.
    pub max_live_locks: i32,
    /// The most requests that wait at once, on each node.
    pub max_waiters: i32,
    /// The most requests a second, on each node, with a burst of twice as many.
    pub requests_per_second: i32,
}

impl From<&Limits> for LimitsBody {
    fn from(limits: &Limits) -> Self {
        Self {
            lease_min_ms: limits.lease_min_ms,
            lease_default_ms: limits.lease_default_ms,
            lease_max_ms: limits.lease_max_ms,
            max_private_namespaces: limits.max_private_namespaces,
            max_tokens: limits.max_tokens,
            max_live_locks: limits.max_live_locks,
            max_waiters: limits.max_waiters,
            requests_per_second: limits.requests_per_second,
        }
    }
}

/// What an account uses of its limits.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Use)]
pub struct UseBody {
    /// Its private namespaces.
    pub private_namespaces: usize,
    /// Its API tokens that work.
    pub tokens: usize,
    /// The locks that it holds or waits for.
    pub live_locks: i64,
}

/// The account that the token is of: plan, limits, use.
#[utoipa::path(
    get, path = "/v2/account", operation_id = "get_account", tag = "account",
    responses((status = 200, description = "The account", body = AccountBody)),
)]
pub async fn get(
    State(api): State<Arc<Api>>,
    manager: Manager,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    Query::parse(uri.query(), &[])?;
    let (db, account) = (&api.app.db, manager.account(&api).await?);
    let account_id = account.account_id;
    let namespaces = namespaces::list(db, account_id).await?;
    let tokens = tokens::list(db, account_id).await?;
    Ok(json(&AccountBody {
        email: account.email,
        created_at: account.created_at,
        lease_ms: account.lease_default_ms,
        limits: LimitsBody::from(&account.limits),
        plan: PlanBody {
            code: account.plan,
            name: account.limits.name,
        },
        used: UseBody {
            // One of the list is the public one.
            private_namespaces: namespaces.len().saturating_sub(1),
            tokens: tokens.iter().filter(|token| !token.expired).count(),
            live_locks: count_live(db, account_id).await?,
        },
    }))
}

/// Something that happened to the account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ActivityEntry, example = json!({
    "id": "4711", "at": "2026-11-27T05:00:00.123Z", "action": "token.create", "author": "owner",
    "means": "token", "token": {"label": "terraform", "hint": "4b11"}, "client_ip": "192.0.2.7",
    "subject": "token:nightly-report",
    "details": {"token_id": "17", "hint": "9c2e", "namespace": "public", "scope": "locks",
                "expires_at": null}
}))]
pub struct EntryBody {
    /// Its id.
    pub id: String,
    /// When it happened.
    #[serde(serialize_with = "instant")]
    pub at: DateTime<Utc>,
    /// What happened, such as `account.sign-in`, `token.create` or `lock.break`.
    pub action: String,
    /// Who did it: `owner`, `administrator`, or `visitor`, who failed to sign in.
    #[schema(pattern = "^(owner|administrator|visitor)$")]
    pub author: String,
    /// By what it was done: `browser`, `token` or `command`.
    #[schema(pattern = "^(browser|token|command)$")]
    pub means: String,
    /// The token of the account that it was done with; null if it was done otherwise.
    pub token: Option<ActingToken>,
    /// The client IP of the request; null for administrators and commands.
    pub client_ip: Option<String>,
    /// What it was done to: an e-mail address, `token:…`, `namespace:…`, `lock:…`.
    pub subject: String,
    /// More about it.
    #[schema(value_type = Option<Object>)]
    pub details: Option<Value>,
}

/// The token that something was done with.
#[derive(Debug, Serialize, ToSchema)]
pub struct ActingToken {
    /// The label that it had then.
    pub label: String,
    /// Its last four characters.
    pub hint: String,
}

impl From<Entry> for EntryBody {
    fn from(entry: Entry) -> Self {
        let token = entry.token_label.zip(entry.token_hint);
        Self {
            id: entry.activity_id.to_string(),
            at: entry.at,
            action: entry.action,
            author: entry.author,
            means: entry.means,
            token: token.map(|(label, hint)| ActingToken { label, hint }),
            client_ip: entry.client_ip,
            subject: entry.subject,
            details: entry.details,
        }
    }
}

/// What happened to the account, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Activity {
    /// The entries.
    pub activity: Vec<EntryBody>,
    /// What to send as `cursor` for those that follow; null at the end.
    pub next_cursor: Option<String>,
}

/// What happened to the account in the last 90 days, the newest first.
#[utoipa::path(
    get, path = "/v2/account/activity", operation_id = "list_activity", tag = "account",
    params(
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<i32>, Query, minimum = 1, maximum = 1000,
            description = "The most entries of the page; by default 100"),
    ),
    responses((status = 200, description = "A page of the activity", body = Activity)),
)]
pub async fn list_activity(
    State(api): State<Arc<Api>>,
    manager: Manager,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let query = Query::parse(uri.query(), &["cursor", "limit"])?;
    let (limit, before_id) = (query.limit()?, id_of_cursor(&query)?);
    let account_id = manager.access.account_id();
    let more = i64::from(limit) + 1;
    let mut found = activity::list(&api.app.db, account_id, before_id, more).await?;
    let next_cursor = cut_page(&mut found, limit, |last| last.activity_id.to_string());
    let activity = found.into_iter().map(EntryBody::from).collect();
    Ok(json(&Activity {
        activity,
        next_cursor,
    }))
}

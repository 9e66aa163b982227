//! `/v2/namespaces`: the private namespaces of the account.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{OriginalUri, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::Api;
use super::super::problem::Problem;
use super::body::{Body, Json};
use super::lease::instant;
use super::locks::json;
use super::manager::{Manager, cut_page};
use super::query::Query;
use crate::namespaces::{self, Namespace, NamespaceError};

/// A private namespace.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Namespace, example = json!({
    "name": "builds", "lease_ms": 300_000, "created_at": "2026-11-27T05:00:00.123Z"
}))]
pub struct NamespaceBody {
    /// Its name.
    pub name: String,
    /// The length of its leases where a request does not say, milliseconds; null for the account's.
    pub lease_ms: Option<i32>,
    /// When it was created.
    #[serde(serialize_with = "instant")]
    pub created_at: DateTime<Utc>,
}

impl From<Namespace> for NamespaceBody {
    fn from(namespace: Namespace) -> Self {
        Self {
            name: namespace.name,
            lease_ms: namespace.lease_default_ms,
            created_at: namespace.created_at,
        }
    }
}

/// Private namespaces, in the order of their names.
#[derive(Debug, Serialize, ToSchema)]
pub struct Namespaces {
    /// The namespaces.
    pub namespaces: Vec<NamespaceBody>,
    /// What to send as `cursor` for those that follow; null at the end.
    pub next_cursor: Option<String>,
}

/// The account's private namespaces; `public`, which all accounts share, is not among them.
#[utoipa::path(
    get, path = "/v2/namespaces", operation_id = "list_namespaces", tag = "account",
    params(
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<i32>, Query, minimum = 1, maximum = 1000,
            description = "The most namespaces of the page; by default 100"),
    ),
    responses((status = 200, description = "A page of the namespaces", body = Namespaces)),
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    manager: Manager,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let query = Query::parse(uri.query(), &["cursor", "limit"])?;
    let (limit, after) = (query.limit()?, query.cursor()?);
    let account_id = manager.access.account_id();
    let more = i64::from(limit) + 1;
    let mut found = namespaces::list_page(&api.app.db, account_id, after.as_deref(), more).await?;
    let next_cursor = cut_page(&mut found, limit, |last| last.name.clone());
    let namespaces = found.into_iter().map(NamespaceBody::from).collect();
    Ok(json(&Namespaces {
        namespaces,
        next_cursor,
    }))
}

/// A new namespace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"name": "builds", "lease_ms": 300_000}))]
pub struct NewNamespaceBody {
    /// Its name: 1 to 63 of a-z, 0-9 and -.
    #[schema(pattern = "^[a-z0-9-]{1,63}$")]
    pub name: String,
    /// The length of its leases where a request does not say, milliseconds; by default the
    /// account's.
    #[schema(minimum = 1000, maximum = 86_400_000)]
    pub lease_ms: Option<i64>,
}

impl Body for NewNamespaceBody {}

/// Creates a private namespace.
#[utoipa::path(
    post, path = "/v2/namespaces", operation_id = "create_namespace", tag = "account",
    request_body = NewNamespaceBody,
    responses((status = 201, description = "The namespace is there", body = NamespaceBody)),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    manager: Manager,
    Json(body): Json<NewNamespaceBody>,
) -> Result<Response, Problem> {
    let (account, actor) = (manager.account(&api).await?, manager.actor());
    let (db, name) = (&api.app.db, &body.name);
    let created = namespaces::create(db, &actor, &account, name, body.lease_ms).await?;
    Ok((StatusCode::CREATED, json(&NamespaceBody::from(created))).into_response())
}

/// The change of a namespace.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"lease_ms": null}))]
pub struct NamespaceChange {
    /// The length of its leases where a request does not say, milliseconds; null for the account's.
    /// Running leases keep their length.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(minimum = 1000, maximum = 86_400_000, required = true)]
    pub lease_ms: Option<i64>,
}

impl Body for NamespaceChange {}

/// The name in a path. Whether there is such a namespace is not said yet.
fn name(path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let name = path.ok().map(|Path(name)| name);
    // The database takes no NUL, and no name has one.
    let name = name.filter(|name| !name.contains('\0'));
    Ok(name.ok_or(NamespaceError::Unknown)?)
}

/// Sets the default lease of a private namespace.
#[utoipa::path(
    patch, path = "/v2/namespaces/{namespace}", operation_id = "change_namespace",
    tag = "account",
    params(("namespace" = String, Path, description = "A namespace of your own")),
    request_body = NamespaceChange,
    responses((status = 200, description = "The namespace as it is now", body = NamespaceBody)),
)]
pub async fn change(
    State(api): State<Arc<Api>>,
    manager: Manager,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<NamespaceChange>,
) -> Result<Response, Problem> {
    let (db, name, actor) = (&api.app.db, name(path)?, manager.actor());
    let account = manager.account(&api).await?;
    namespaces::set_lease_default(db, &actor, &account, &name, body.lease_ms).await?;
    let changed = namespaces::find(db, account.account_id, &name).await?;
    Ok(json(&NamespaceBody::from(changed)))
}

/// Deletes a private namespace in which no lock is held or waited for, and its tokens with it.
#[utoipa::path(
    delete, path = "/v2/namespaces/{namespace}", operation_id = "delete_namespace",
    tag = "account",
    params(("namespace" = String, Path, description = "A namespace of your own")),
    responses((status = 204, description = "The namespace and its tokens are gone")),
)]
pub async fn delete(
    State(api): State<Arc<Api>>,
    manager: Manager,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let (db, name, actor) = (&api.app.db, name(path)?, manager.actor());
    let account = manager.account(&api).await?;
    namespaces::delete(db, &actor, account.account_id, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

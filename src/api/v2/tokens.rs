//! `/v2/tokens`: the API tokens of the account.

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
use super::body::{Body, Json, invalid};
use super::lease::{instant, instant_or_null};
use super::locks::json;
use super::manager::{Manager, cut_page, id_of_cursor};
use super::query::Query;
use crate::id::TokenId;
use crate::namespaces::PUBLIC;
use crate::secret::Secret;
use crate::tokens::{self, NewToken, Scope, Token, TokenError};

/// An API token, without its secret.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Token, example = json!({
    "id": "17", "label": "nightly-report", "namespace": "public", "scope": "locks", "hint": "4b11",
    "created_at": "2026-11-27T05:00:00.123Z", "last_used_at": null, "expires_at": null
}))]
pub struct TokenBody {
    /// Its id, by which it is rotated and revoked.
    pub id: String,
    /// Its name for people.
    pub label: String,
    /// The namespace whose locks it takes.
    pub namespace: String,
    /// `locks`, or `manage`: also the account's tokens and namespaces, and breaking locks.
    #[schema(pattern = "^(locks|manage)$")]
    pub scope: String,
    /// The last four characters of the token.
    pub hint: String,
    /// When it was created.
    #[serde(serialize_with = "instant")]
    pub created_at: DateTime<Utc>,
    /// When it was last used, up to ten seconds behind; null for never.
    #[serde(serialize_with = "instant_or_null")]
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it stops working; null for never.
    #[serde(serialize_with = "instant_or_null")]
    pub expires_at: Option<DateTime<Utc>>,
}

impl From<Token> for TokenBody {
    fn from(token: Token) -> Self {
        Self {
            id: token.token_id.to_string(),
            label: token.label,
            namespace: token.namespace,
            scope: token.scope,
            hint: token.hint,
            created_at: token.created_at,
            last_used_at: token.last_used_at,
            expires_at: token.expires_at,
        }
    }
}

/// A token that was just issued, with its secret.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "id": "17", "label": "nightly-report", "namespace": "public", "scope": "locks", "hint": "4b11",
    "created_at": "2026-11-27T05:00:00.123Z", "last_used_at": null, "expires_at": null,
    "token": "0194d3a5-7c1e-4b7e-9d3f-2f1f6c0a4b11"
}))]
pub struct IssuedToken {
    /// The token's description.
    #[serde(flatten)]
    pub description: TokenBody,
    /// The token itself. It is never shown again: only its digest is stored.
    pub token: String,
}

/// Tokens, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokens {
    /// The tokens that were not revoked; expired ones are among them.
    pub tokens: Vec<TokenBody>,
    /// What to send as `cursor` for those that follow; null at the end.
    pub next_cursor: Option<String>,
}

/// The account's tokens.
#[utoipa::path(
    get, path = "/v2/tokens", operation_id = "list_tokens", tag = "account",
    params(
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the page before"),
        ("limit" = Option<i32>, Query, minimum = 1, maximum = 1000,
            description = "The most tokens of the page; by default 100"),
    ),
    responses((status = 200, description = "A page of the tokens", body = Tokens)),
)]
pub async fn list(
    State(api): State<Arc<Api>>,
    manager: Manager,
    OriginalUri(uri): OriginalUri,
) -> Result<Response, Problem> {
    let query = Query::parse(uri.query(), &["cursor", "limit"])?;
    let (limit, before_id) = (query.limit()?, id_of_cursor(&query)?.map(TokenId));
    let account_id = manager.access.account_id();
    let more = i64::from(limit) + 1;
    let mut found = tokens::list_page(&api.app.db, account_id, before_id, more).await?;
    let next_cursor = cut_page(&mut found, limit, |last| last.token_id.to_string());
    let tokens = found.into_iter().map(TokenBody::from).collect();
    Ok(json(&Tokens {
        tokens,
        next_cursor,
    }))
}

/// A new token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"label": "nightly-report", "expires_at": "2030-01-31T00:00:00Z"}))]
pub struct NewTokenBody {
    /// Its name for people.
    #[schema(min_length = 1, max_length = 100)]
    pub label: String,
    /// The namespace whose locks it takes: `public`, the default, or one of your own.
    pub namespace: Option<String>,
    /// `locks`, the default, or `manage`.
    #[schema(pattern = "^(locks|manage)$")]
    pub scope: Option<String>,
    /// When it stops working, in the future; by default never.
    #[schema(format = DateTime)]
    pub expires_at: Option<String>,
}

impl Body for NewTokenBody {}

/// An instant of RFC 3339.
fn parse_instant(text: &str) -> Result<DateTime<Utc>, Problem> {
    let instant = DateTime::parse_from_rfc3339(text).map_err(|_| {
        let detail = "expires_at is an instant of RFC 3339, such as 2030-01-31T00:00:00Z";
        invalid("/expires_at", detail)
    })?;
    Ok(instant.to_utc())
}

/// Creates a token. The answer is the only one that has it: only its digest is stored.
///
/// A request that is repeated creates another token.
#[utoipa::path(
    post, path = "/v2/tokens", operation_id = "create_token", tag = "account",
    request_body = NewTokenBody,
    responses((status = 201, description = "The token works", body = IssuedToken)),
)]
pub async fn create(
    State(api): State<Arc<Api>>,
    manager: Manager,
    Json(body): Json<NewTokenBody>,
) -> Result<Response, Problem> {
    let scope = body.scope.as_deref().unwrap_or(Scope::Locks.as_str());
    let new = NewToken {
        label: &body.label,
        namespace: body.namespace.as_deref().unwrap_or(PUBLIC),
        scope: scope.parse()?,
        expires_at: body.expires_at.as_deref().map(parse_instant).transpose()?,
    };
    let account = manager.account(&api).await?;
    let (db, confirmation) = (&api.app.db, api.app.email_confirmation());
    let issued = tokens::create(db, &manager.actor(), &account, confirmation, &new).await?;
    let body = issued_body(&api, &manager, issued).await?;
    Ok((StatusCode::CREATED, json(&body)).into_response())
}

async fn issued_body(
    api: &Api,
    manager: &Manager,
    (token_id, secret): (TokenId, Secret),
) -> Result<IssuedToken, Problem> {
    let token = tokens::find(&api.app.db, manager.access.account_id(), token_id).await?;
    Ok(IssuedToken {
        description: token.into(),
        token: secret.expose().to_owned(),
    })
}

/// The rotation of a token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(example = json!({"overlap_ms": 3_600_000}))]
pub struct RotateBody {
    /// How long the old token still works, milliseconds; by default not at all.
    #[schema(minimum = 0, maximum = 604_800_000, default = 0)]
    pub overlap_ms: Option<i64>,
}

impl Body for RotateBody {
    const IS_OPTIONAL: bool = true;
}

/// The id in a path: digits, as the API writes them.
fn token_id(path: Result<Path<String>, PathRejection>) -> Result<TokenId, Problem> {
    let parsed = path.ok().and_then(|Path(text)| {
        let id: TokenId = text.parse().ok()?;
        (id.to_string() == text).then_some(id)
    });
    Ok(parsed.ok_or(TokenError::Unknown)?)
}

/// Replaces a token by a new one of the same label, namespace, scope and expiry.
///
/// The old one still works for `overlap_ms`, so that its users can be moved over one by one. A
/// request that is repeated within that time makes another successor.
#[utoipa::path(
    post, path = "/v2/tokens/{id}/rotate", operation_id = "rotate_token", tag = "account",
    params(("id" = String, Path, description = "The id of the old token")),
    request_body(content = RotateBody, description = "May be left out"),
    responses((status = 200, description = "The new token works", body = IssuedToken)),
)]
pub async fn rotate(
    State(api): State<Arc<Api>>,
    manager: Manager,
    path: Result<Path<String>, PathRejection>,
    Json(body): Json<RotateBody>,
) -> Result<Response, Problem> {
    let token_id = token_id(path)?;
    let overlap = tokens::overlap_from_ms(body.overlap_ms.unwrap_or(0))?;
    let account = manager.account(&api).await?;
    let (db, actor) = (&api.app.db, manager.actor());
    let issued = tokens::rotate(db, &actor, &account, token_id, overlap).await?;
    Ok(json(&issued_body(&api, &manager, issued).await?))
}

/// Revokes a token: it is refused everywhere within a second. Its leases run on until they expire.
#[utoipa::path(
    delete, path = "/v2/tokens/{id}", operation_id = "revoke_token", tag = "account",
    params(("id" = String, Path, description = "The id of the token")),
    responses((status = 204, description = "The token is revoked")),
)]
pub async fn revoke(
    State(api): State<Arc<Api>>,
    manager: Manager,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let (token_id, account) = (token_id(path)?, manager.account(&api).await?);
    tokens::revoke(&api.app.db, &manager.actor(), account.account_id, token_id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

//! The authentication of requests: the `Authorization` header, its token, and the account's rate.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::credentials::SentToken;
use super::problem::Problem;
use super::{Api, credentials};
use crate::tokens::Caller;
use crate::transport::{RequestContext, client_ip};

/// The caller of a request, verified and within the rate of its plan.
///
/// # Errors
/// If the token is invalid, the account makes too many requests, or the look-up in the database
/// fails.
pub async fn authenticate(
    api: &Api,
    context: &RequestContext,
    headers: &HeaderMap,
) -> Result<Arc<Caller>, Problem> {
    let token = credentials::basic(headers)?;
    let caller = verify(api, context, &token).await?;
    api.rates
        .check(caller.account_id, caller.limits.requests_per_second)?;
    Ok(caller)
}

/// The caller that a token belongs to.
///
/// # Errors
/// If the token is invalid, or the look-up in the database fails.
pub async fn verify(
    api: &Api,
    context: &RequestContext,
    token: &SentToken,
) -> Result<Arc<Caller>, Problem> {
    let client = client_ip::throttle_key(context.client_ip());
    let caller = api.app.tokens.verify(token.expose(), client).await?;
    context.set_account_id(caller.account_id.0);
    Ok(caller)
}

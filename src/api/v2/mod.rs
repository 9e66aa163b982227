//! Version 2: leases as objects, JSON in and JSON out. Adapters over the same engine and nouns as
//! version 1: a lock that was taken through one is seen, renewed and released through the other.
//!
//! [`access`] finds the caller and the lock, [`manager`] a caller who manages the account, [`body`]
//! and [`query`] read requests strictly, [`lease`] has the JSON of answers. The handlers are in
//! [`locks`] and [`many`], in [`history`] and [`streams`], and in [`tokens`], [`namespaces`] and
//! [`account`]; [`routers`] collects them with their descriptions (OpenAPI 3.1).

pub mod access;
pub mod account;
pub mod body;
pub mod breaking;
pub mod history;
pub mod lease;
pub mod locks;
pub mod manager;
pub mod many;
pub mod namespaces;
pub mod openapi;
pub mod query;
pub mod streams;
pub mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, Method, header};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::problem::{Code, Problem};

/// The calls whose answer may take as long as a request waits.
fn waiting_calls() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(locks::acquire))
}

/// All other calls.
fn other_calls() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(locks::heartbeat))
        .routes(routes!(locks::release))
        .routes(routes!(breaking::break_lock))
        .routes(routes!(locks::get))
        .routes(routes!(locks::list))
        .routes(routes!(history::history))
        .routes(routes!(streams::of_lock))
        .routes(routes!(streams::of_namespace))
        .routes(routes!(many::acquire_all))
        .routes(routes!(many::heartbeats))
        .routes(routes!(many::releases))
        .routes(routes!(account::get))
        .routes(routes!(account::list_activity))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::rotate))
        .routes(routes!(tokens::revoke))
        .routes(routes!(namespaces::list, namespaces::create))
        .routes(routes!(namespaces::change, namespaces::delete))
}

/// The routes of version 2.
#[derive(Debug)]
pub struct Routers {
    /// The calls that may wait: they keep to a deadline by themselves.
    pub waiting: Router,
    /// All other calls.
    pub others: Router,
    /// The description of the whole API.
    pub document: OpenApi,
}

/// Puts the routes together, over the API's state.
pub fn routers(api: &Arc<Api>) -> Routers {
    let (waiting, mut document) = waiting_calls().split_for_parts();
    let (others, others_document) = other_calls().split_for_parts();
    document.merge(others_document);
    let document = openapi::document(document, api.app.public_url.as_str());
    Routers {
        waiting: waiting
            .method_not_allowed_fallback(method_not_allowed)
            .with_state(Arc::clone(api)),
        others: others
            .method_not_allowed_fallback(method_not_allowed)
            .with_state(Arc::clone(api)),
        document,
    }
}

/// Answers a method that a call does not have. axum adds `Allow`.
async fn method_not_allowed(method: Method, headers: HeaderMap) -> Problem {
    let detail = format!(
        "This address does not take {method}: the Allow header has those that it takes. Nothing \
         was done."
    );
    let problem = Problem::new(Code::MethodNotAllowed, detail);
    match headers.get(header::ALLOW).cloned() {
        Some(allow) => problem.with_header(header::ALLOW, allow),
        None => problem,
    }
}

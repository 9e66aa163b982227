//! `/docs/api`: the OpenAPI document for people.
//!
//! The page is rendered here and not by one of the viewers for OpenAPI documents. With our
//! Content-Security-Policy, RapiDoc 9.3 and Redoc 2.5 lose their styles (both set them inline).
//! Swagger UI 5.35 works, but it is 1.9 MB of script and style, it has a look of its own that does
//! not follow the reader's colour scheme, and it shows nothing without script. This page has
//! anchors, is found by the browser's search, and needs no script.

mod document;
mod example;
mod prose;
mod schema;

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{MethodRouter, get};

use self::document::Reference;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, page_for};
use crate::web::state::Web;
use crate::web::ui::page::{Page, Tab, render};

#[derive(Template)]
#[template(path = "public/api_reference.html")]
struct ReferencePage<'a> {
    page: Page,
    reference: &'a Reference,
}

/// The page of this document, which is read once.
pub(crate) fn route(document: &serde_json::Value) -> MethodRouter<Web> {
    let reference = Arc::new(Reference::new(document));
    get(
        async move |State(_): State<Web>, current: Option<CurrentAccount>| {
            show(&reference, current.as_ref()).await
        },
    )
}

async fn show(
    reference: &Reference,
    current: Option<&CurrentAccount>,
) -> Result<Response, WebError> {
    render(&ReferencePage {
        page: page_for(current, "API reference", Tab::ApiReference).await?,
        reference,
    })
}

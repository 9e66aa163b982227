//! What browsers are told about pages, and which requests of theirs are taken.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::csrf::{CsrfLayer, ProtectionError};
use url::Url;

use super::error::WebError;

/// Nothing inline, nothing from elsewhere. `data:` images are icons in the style sheet.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

/// The headers of every page. What a handler has said stands.
pub(super) fn headers(headers: &mut HeaderMap) {
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(POLICY);
    headers
        .entry(header::X_FRAME_OPTIONS)
        .or_insert(HeaderValue::from_static("DENY"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers
        .entry(HeaderName::from_static("cross-origin-opener-policy"))
        .or_insert(same_origin.clone());
    headers
        .entry(HeaderName::from_static("cross-origin-resource-policy"))
        .or_insert(same_origin);
}

/// A page whose address holds the secret of a link keeps that from everybody, its own style sheet
/// included. Not `no-referrer`: with that browsers send forms with `Origin: null`, which
/// [`same_site`] has to refuse where there is no `Sec-Fetch-Site`.
pub(super) async fn keep_links(request: Request, next: Next) -> Response {
    let has_link = request
        .uri()
        .query()
        .is_some_and(|query| query.contains("link"));
    let mut response = next.run(request).await;
    if has_link {
        response.headers_mut().insert(
            header::REFERRER_POLICY,
            HeaderValue::from_static("strict-origin"),
        );
    }
    response
}

/// Takes changes only from this service's own pages, by `Sec-Fetch-Site` and `Origin`.
pub(super) fn same_site(
    public_url: &Url,
) -> CsrfLayer<impl FnMut(ProtectionError) -> Response + Clone + use<>> {
    let layer = CsrfLayer::new();
    // Behind a proxy that rewrites Host, the public URL is what browsers name as their origin.
    let layer = match layer
        .clone()
        .add_trusted_origin(public_url.origin().ascii_serialization())
    {
        Ok(layer) => layer,
        Err(error) => {
            tracing::warn!(%error, "the public URL is no origin that a browser names");
            layer
        }
    };
    layer.with_rejection_response(|_| WebError::CrossSite.into_response())
}

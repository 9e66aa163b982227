//! The security headers of pages.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;

/// Nothing inline, nothing from elsewhere. `data:` images are icons in the style sheet.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'",
);

/// Sets the headers of every page, except those that the handler has set.
pub(super) fn set_common_headers(headers: &mut HeaderMap) {
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

/// Keeps the URL of a page out of `Referer` where it holds the secret of a link, even from requests
/// for the page's own style sheet. Not by `no-referrer`: with that, browsers send forms with
/// `Origin: null`, which [`csrf`](super::csrf) refuses where there is no `Sec-Fetch-Site`.
pub(super) async fn keep_links_out_of_referrers(request: Request, next: Next) -> Response {
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

//! Protection against forms that another site sends.

use axum::response::{IntoResponse, Response};
use tower_http::csrf::{CsrfLayer, ProtectionError};
use url::Url;

use super::error::WebError;

/// The layer that refuses changes from anywhere but this service's own pages, by `Sec-Fetch-Site`
/// and `Origin`.
pub(super) fn layer(
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

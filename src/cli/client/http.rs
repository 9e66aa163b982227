//! HTTP from the caller's side, whatever the version of the API.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::header::HeaderMap;
use reqwest::{Client, redirect};
use url::Url;

/// For one request, its connection included, beside the time that it waits for the lock. A service
/// that takes longer than that answers 503 itself.
pub(super) const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Characters that are escaped in a segment of a URL's path and in a parameter: all but those that
/// RFC 3986 calls unreserved.
pub(super) const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A client without a time-out for whole requests: each request states its own.
///
/// Plain HTTP works on a machine that has no CA certificates: none are looked for.
pub(super) fn client(service: &Url) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("lockable/", env!("CARGO_PKG_VERSION")));
    if service.scheme() == "https" || has_https_proxy() {
        builder.build()
    } else {
        builder.tls_certs_only([]).build()
    }
}

/// True if plain HTTP goes through a proxy that is reached by HTTPS.
fn has_https_proxy() -> bool {
    ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
        .into_iter()
        .filter_map(std::env::var_os)
        .any(|proxy| proxy.to_string_lossy().starts_with("https:"))
}

/// A header that is a whole number.
pub(super) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// An error with its causes: "error sending request" alone helps nobody.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

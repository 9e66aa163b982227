//! Requests that no program sent on purpose.

use axum::http::{HeaderMap, HeaderName};

use super::problem::{Code, Problem};

const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
const PURPOSE: HeaderName = HeaderName::from_static("purpose");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses requests that no program sent on purpose: a browser's prefetch, and a page of another
/// site that uses the browser's stored credentials.
///
/// # Errors
/// [`Code::PrefetchRefused`], [`Code::CrossSiteRefused`].
pub(super) fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
    let contains = |name: &HeaderName, words: &[&str]| {
        headers.get_all(name).iter().any(|value| {
            let value = value.as_bytes().to_ascii_lowercase();
            words.iter().any(|word| {
                value
                    .windows(word.len())
                    .any(|part| part == word.as_bytes())
            })
        })
    };
    let ahead_of_time = ["prefetch", "prerender", "preview"];
    if contains(&SEC_PURPOSE, &ahead_of_time) || contains(&PURPOSE, &ahead_of_time) {
        let detail = "This was announced as a prefetch, which must not take, keep or give back a \
                      lock; nothing was done.";
        return Err(Problem::new(Code::PrefetchRefused, detail));
    }
    if contains(&SEC_FETCH_SITE, &["cross-site"]) {
        let detail = "A page of another site sent this through a browser; nothing was done. Call \
                      the API from a program.";
        return Err(Problem::new(Code::CrossSiteRefused, detail));
    }
    Ok(())
}

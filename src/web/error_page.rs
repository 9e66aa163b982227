//! The page that says what went wrong, and the completion of every response of the pages.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::error::WebError;
use super::ui::page::{Page, Tab, render_as};
use super::{headers, session};
use crate::transport::{HandlerResult, RequestContext};

/// Completes every response of the pages: errors become pages, and the common headers are set.
pub(super) fn finish(result: HandlerResult, context: &RequestContext) -> Response {
    let mut response = match result {
        HandlerResult::Answer(response) => errors_as_pages(response, context),
        HandlerResult::Panicked => error_page(
            &WebError::Bug(anyhow::anyhow!("a handler panicked")),
            context,
        ),
        HandlerResult::TimedOut => error_page(&WebError::TookTooLong, context),
    };
    headers::set_common_headers(response.headers_mut());
    session::secure_removals(response.headers_mut());
    response
}

fn errors_as_pages(mut response: Response, context: &RequestContext) -> Response {
    if let Some(error) = response.extensions_mut().remove::<Arc<WebError>>() {
        return error_page(&error, context);
    }
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page {
        return response;
    }
    // Responses of extractors and the router, and of the session layer where it cannot write.
    let error = match response.status() {
        StatusCode::NOT_FOUND => WebError::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => WebError::MethodNotAllowed,
        StatusCode::PAYLOAD_TOO_LARGE => WebError::TooLarge,
        StatusCode::BAD_REQUEST
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => WebError::BadRequest,
        StatusCode::INTERNAL_SERVER_ERROR => WebError::Unavailable,
        _ => return response,
    };
    let allowed = response.headers_mut().remove(header::ALLOW);
    let mut page = error_page(&error, context);
    if let Some(allowed) = allowed {
        page.headers_mut().insert(header::ALLOW, allowed);
    }
    page
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    page: Page,
    heading: &'static str,
    text: String,
    request_id: Option<String>,
    link: Option<(String, String)>,
}

fn error_page(error: &WebError, context: &RequestContext) -> Response {
    if let WebError::Bug(cause) = error {
        tracing::error!(request_id = %context.id(), error = format!("{cause:#}"), "a page failed");
    }
    let link = match error {
        WebError::Forbidden { link, .. } => link.clone(),
        _ => None,
    };
    let status = error.status();
    let page = ErrorPage {
        page: Page::neutral(heading(error)),
        heading: heading(error),
        text: text(error),
        request_id: status.is_server_error().then(|| context.id().to_string()),
        link,
    };
    // If even this page cannot be written, the bare status remains.
    let mut response = render_as(status, &page).unwrap_or_else(|_| status.into_response());
    let retry_after = match error {
        WebError::Throttled { retry_after_s } => Some(Duration::from_secs(*retry_after_s)),
        WebError::Unavailable | WebError::TookTooLong => Some(Duration::from_secs(2)),
        _ => None,
    };
    if let Some(after) = retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    response
}

fn heading(error: &WebError) -> &'static str {
    match error {
        WebError::SignIn { .. } => "Sign in first",
        WebError::NotFound => "There is no such page",
        WebError::Forbidden { .. } => "Not with this account",
        WebError::BadRequest => "That request could not be read",
        WebError::TooLarge => "That is too much to send",
        WebError::MethodNotAllowed => "That cannot be done here",
        WebError::CrossSite => "That came from another site",
        WebError::Throttled { .. } => "Too many tries",
        WebError::Unavailable => "The database is away",
        WebError::TookTooLong => "That took too long",
        WebError::Bug(_) => "Something went wrong on our side",
    }
}

fn text(error: &WebError) -> String {
    match error {
        WebError::SignIn { .. } => "This page needs an account.".to_owned(),
        WebError::NotFound => {
            "Nothing of yours is at this address. It may have been deleted, or the link is \
                 wrong."
                .to_owned()
        }
        WebError::Forbidden { sentence, .. } => sentence.clone(),
        WebError::BadRequest => {
            "Go back, load the page again and send the form once more.".to_owned()
        }
        WebError::TooLarge => "The form takes less than that. Shorten what you typed.".to_owned(),
        WebError::MethodNotAllowed => "Go back and use the buttons of the page.".to_owned(),
        WebError::CrossSite => {
            "For your safety, forms are only taken from this service's own pages. Open the \
                 page here and try again."
                .to_owned()
        }
        WebError::Throttled { retry_after_s } => {
            format!(
                "Wait {} and try again. Nothing was changed.",
                wait(*retry_after_s)
            )
        }
        WebError::Unavailable => {
            "Lockable cannot reach its database right now, so it cannot show or change \
                 anything. Your locks keep their leases for a while. Try again in a few seconds."
                .to_owned()
        }
        WebError::TookTooLong => {
            "It is not known whether it was done. Look before you send it again; Lockable may \
                 have much to do, or your connection be slow."
                .to_owned()
        }
        WebError::Bug(_) => {
            "It has been written to the log. If it happens again, tell whoever runs this \
                 service the request id below."
                .to_owned()
        }
    }
}

fn wait(seconds: u64) -> String {
    match seconds {
        0 | 1 => "a second".to_owned(),
        2..=90 => format!("{seconds} seconds"),
        _ => format!("{} minutes", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::RequestId;

    #[tokio::test]
    async fn a_page_that_took_too_long_does_not_blame_the_database() {
        let context =
            RequestContext::new(RequestId::generate(), std::net::Ipv4Addr::LOCALHOST.into());
        let response = finish(HandlerResult::TimedOut, &context);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        let body = axum::body::to_bytes(response.into_body(), usize::MAX)
            .await
            .unwrap();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(
            text.contains("not known whether it was done") && !text.contains("database"),
            "{text}"
        );
    }
}

//! What goes wrong in the browser, and the page that says so. The one place where pages map errors
//! to HTTP.

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};

use super::ui::page::{Page, Tab, render_as};
use super::{headers, session};
use crate::accounts::AccountError;
use crate::db;
use crate::locks::BreakError;
use crate::namespaces::NamespaceError;
use crate::plans::PlanError;
use crate::tokens::TokenError;
use crate::transport::{Outcome, RequestContext};

/// Why a page cannot be shown or an act not be done, other than what a form says next to its field.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    /// Not signed in: to the sign-in page, and back to this address after it.
    #[error("not signed in")]
    SignIn {
        /// Path and query to come back to; `None` after a POST, which cannot be repeated.
        back: Option<String>,
    },
    /// No such page, or not one of this account's.
    #[error("not found")]
    NotFound,
    /// Known, and not allowed.
    #[error("not allowed: {sentence}")]
    Forbidden {
        /// What to do about it.
        sentence: String,
        /// A link that leads on: address and label.
        way_up: Option<(String, String)>,
    },
    /// A form that no browser would have sent from our pages.
    #[error("the request could not be read")]
    BadRequest,
    /// More than a form needs.
    #[error("the request is too large")]
    TooLarge,
    /// Another method than the page has.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// Sent from another site.
    #[error("sent from another site")]
    CrossSite,
    /// Too often.
    #[error("too many tries")]
    Throttled {
        /// Seconds until the next may come.
        retry_after_s: u64,
    },
    /// The database is away, or this node has too much to do.
    #[error("unavailable")]
    Unavailable,
    /// Not within a page's deadline: the form came too slowly, or the work took too long.
    #[error("took too long")]
    TookTooLong,
    /// Our mistake. Its text goes to the log, never to the page.
    #[error("{0}")]
    Bug(anyhow::Error),
}

impl From<sqlx::Error> for WebError {
    fn from(error: sqlx::Error) -> Self {
        if db::is_unavailable(&error) {
            Self::Unavailable
        } else if db::violated_constraint(&error)
            .is_some_and(|constraint| constraint.ends_with("_account_fk"))
        {
            // The account was deleted while this request ran.
            Self::NotFound
        } else {
            Self::Bug(error.into())
        }
    }
}

impl From<AccountError> for WebError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Database(error) => error.into(),
            // An account that is deleted while one of its pages is asked for.
            AccountError::Unknown => Self::NotFound,
            AccountError::EmailTaken
            | AccountError::UnknownPlan(_)
            | AccountError::InvalidReason(_)
            | AccountError::Yourself
            | AccountError::Lease(_)
            | AccountError::Already(_) => {
                Self::Bug(anyhow::Error::new(error).context("a form's error reached no form"))
            }
        }
    }
}

impl From<BreakError> for WebError {
    fn from(error: BreakError) -> Self {
        match error {
            BreakError::Database(error) => error.into(),
            BreakError::NotHeld | BreakError::InvalidReason(_) => {
                Self::Bug(anyhow::Error::new(error).context("a form's error reached no form"))
            }
        }
    }
}

impl From<TokenError> for WebError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Database(error) => error.into(),
            TokenError::Unknown | TokenError::UnknownNamespace => Self::NotFound,
            TokenError::InvalidLabel
            | TokenError::EmailNotConfirmed
            | TokenError::UnknownScope
            | TokenError::ExpiryInThePast
            | TokenError::TooMany { .. } => {
                Self::Bug(anyhow::Error::new(error).context("a form's error reached no form"))
            }
        }
    }
}

impl From<NamespaceError> for WebError {
    fn from(error: NamespaceError) -> Self {
        match error {
            NamespaceError::Database(error) => error.into(),
            NamespaceError::Unknown => Self::NotFound,
            NamespaceError::InvalidName
            | NamespaceError::Reserved
            | NamespaceError::Taken
            | NamespaceError::NotInPlan
            | NamespaceError::TooMany { .. }
            | NamespaceError::InUse
            | NamespaceError::Lease(_) => {
                Self::Bug(anyhow::Error::new(error).context("a form's error reached no form"))
            }
        }
    }
}

impl From<PlanError> for WebError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Database(error) => error.into(),
            PlanError::Unknown(_) => Self::NotFound,
            PlanError::Invalid(_) | PlanError::InvalidCode | PlanError::Taken(_) => {
                Self::Bug(anyhow::Error::new(error).context("a form's error reached no form"))
            }
        }
    }
}

impl WebError {
    /// What only a plan with more in it allows.
    pub(crate) fn needs_plan(what: &str, upgrade_url: Option<&url::Url>) -> Self {
        let sentence = match upgrade_url {
            Some(_) => format!("{what} come with the Business plan."),
            None => {
                format!("{what} come with the Business plan. Ask whoever runs this service for it.")
            }
        };
        Self::Forbidden {
            sentence,
            way_up: upgrade_url.map(|url| (url.to_string(), "Get the Business plan".to_owned())),
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::SignIn { .. } => StatusCode::SEE_OTHER,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Forbidden { .. } | Self::CrossSite => StatusCode::FORBIDDEN,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Throttled { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable | Self::TookTooLong => StatusCode::SERVICE_UNAVAILABLE,
            Self::Bug(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn heading(&self) -> &'static str {
        match self {
            Self::SignIn { .. } => "Sign in first",
            Self::NotFound => "There is no such page",
            Self::Forbidden { .. } => "Not with this account",
            Self::BadRequest => "That request could not be read",
            Self::TooLarge => "That is too much to send",
            Self::MethodNotAllowed => "That cannot be done here",
            Self::CrossSite => "That came from another site",
            Self::Throttled { .. } => "Too many tries",
            Self::Unavailable => "The database is away",
            Self::TookTooLong => "That took too long",
            Self::Bug(_) => "Something went wrong on our side",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::SignIn { .. } => "This page needs an account.".to_owned(),
            Self::NotFound => {
                "Nothing of yours is at this address. It may have been deleted, or the link is wrong.".to_owned()
            }
            Self::Forbidden { sentence, .. } => sentence.clone(),
            Self::BadRequest => "Go back, load the page again and send the form once more.".to_owned(),
            Self::TooLarge => "The form takes less than that. Shorten what you typed.".to_owned(),
            Self::MethodNotAllowed => "Go back and use the buttons of the page.".to_owned(),
            Self::CrossSite => {
                "For your safety, forms are only taken from this service's own pages. Open the page here and try again."
                    .to_owned()
            }
            Self::Throttled { retry_after_s } => {
                format!("Wait {} and try again. Nothing was changed.", wait(*retry_after_s))
            }
            Self::Unavailable => {
                "Lockable cannot reach its database right now, so it cannot show or change anything. Your locks keep \
                 their leases for a while. Try again in a few seconds."
                    .to_owned()
            }
            Self::TookTooLong => {
                "It is not known whether it was done. Look before you send it again; Lockable may have much to do, or your \
                 connection be slow."
                    .to_owned()
            }
            Self::Bug(_) => "It has been written to the log. If it happens again, tell whoever runs this service the \
                             request id below."
                .to_owned(),
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

impl IntoResponse for WebError {
    fn into_response(self) -> Response {
        if let Self::SignIn { back } = &self {
            let login = match back {
                Some(back) => {
                    format!(
                        "/login?{}",
                        url::form_urlencoded::Serializer::new(String::new())
                            .append_pair("next", back)
                            .finish()
                    )
                }
                None => "/login".to_owned(),
            };
            return Redirect::to(&login).into_response();
        }
        // The page is written by `finish`, which knows the request's id.
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// The last touch on every answer of the pages: errors become pages, and the headers that pages
/// have are set.
pub(super) fn finish(outcome: Outcome, context: &RequestContext) -> Response {
    let mut response = match outcome {
        Outcome::Answer(response) => dress(response, context),
        Outcome::Panicked => page_of(
            &WebError::Bug(anyhow::anyhow!("a handler panicked")),
            context,
        ),
        Outcome::TimedOut => page_of(&WebError::TookTooLong, context),
    };
    headers::headers(response.headers_mut());
    session::secure_removals(response.headers_mut());
    response
}

fn dress(mut response: Response, context: &RequestContext) -> Response {
    if let Some(error) = response.extensions_mut().remove::<Arc<WebError>>() {
        return page_of(&error, context);
    }
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page {
        return response;
    }
    // What extractors and the router answer by themselves, and the session layer where it cannot
    // write.
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
    let mut page = page_of(&error, context);
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
    way_on: Option<(String, String)>,
}

fn page_of(error: &WebError, context: &RequestContext) -> Response {
    if let WebError::Bug(cause) = error {
        tracing::error!(request_id = %context.id(), error = format!("{cause:#}"), "a page failed");
    }
    let way_on = match error {
        WebError::Forbidden { way_up, .. } => way_up.clone(),
        _ => None,
    };
    let status = error.status();
    let page = ErrorPage {
        page: Page::neutral(error.heading()),
        heading: error.heading(),
        text: error.text(),
        request_id: status.is_server_error().then(|| context.id().to_string()),
        way_on,
    };
    // A bare status is left where even this page cannot be written.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::RequestId;

    #[tokio::test]
    async fn what_took_too_long_is_not_blamed_on_the_database() {
        let context =
            RequestContext::new(RequestId::generate(), std::net::Ipv4Addr::LOCALHOST.into());
        let response = finish(Outcome::TimedOut, &context);
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

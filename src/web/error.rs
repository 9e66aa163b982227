//! The errors of pages: the one place where the nouns' errors become HTTP statuses.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};

use crate::accounts::AccountError;
use crate::db;
use crate::locks::BreakError;
use crate::namespaces::NamespaceError;
use crate::plans::PlanError;
use crate::tokens::TokenError;

/// The reason why a page cannot be shown or an act not be done, unless a form can say it next to a
/// field.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    /// Not signed in: the reader is sent to the sign-in page, and back to this page after it.
    #[error("not signed in")]
    SignIn {
        /// Path and query to come back to; `None` after a POST, which cannot be repeated.
        back: Option<String>,
    },
    /// No such page, or not one of this account's.
    #[error("not found")]
    NotFound,
    /// The account may not do this.
    #[error("not allowed: {sentence}")]
    Forbidden {
        /// Says what to do about it.
        sentence: String,
        /// A link that leads on: URL and label.
        link: Option<(String, String)>,
    },
    /// A form that no browser would have sent from our pages.
    #[error("the request could not be read")]
    BadRequest,
    /// The body is larger than any form.
    #[error("the request is too large")]
    TooLarge,
    /// The page has no such method.
    #[error("method not allowed")]
    MethodNotAllowed,
    /// The form was sent from another site.
    #[error("sent from another site")]
    CrossSite,
    /// The reader tries too often.
    #[error("too many tries")]
    Throttled {
        /// Seconds until the next try is allowed.
        retry_after_s: u64,
    },
    /// The database is unavailable, or this node has too much to do.
    #[error("unavailable")]
    Unavailable,
    /// Not within a page's deadline: the form came too slowly, or the work took too long.
    #[error("took too long")]
    TookTooLong,
    /// A mistake of ours. Its text goes to the log, never to the page.
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
            // The account was deleted while this request ran.
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
            | TokenError::InvalidOverlap
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
    /// The plan does not include this feature.
    pub(crate) fn not_in_plan(feature: &str, upgrade_url: Option<&url::Url>) -> Self {
        let sentence = match upgrade_url {
            Some(_) => format!("{feature} come with the Business plan."),
            None => {
                format!(
                    "{feature} come with the Business plan. Ask whoever runs this service for it."
                )
            }
        };
        Self::Forbidden {
            sentence,
            link: upgrade_url.map(|url| (url.to_string(), "Get the Business plan".to_owned())),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
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
        // `error_page::finish` writes the page: it knows the request's id.
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

//! The errors of managing an account, its tokens and its namespaces as problems.

use std::fmt::Display;

use super::{Code, Problem};
use crate::accounts::AccountError;
use crate::namespaces::NamespaceError;
use crate::plans::LeaseRefused;
use crate::text::sentence;
use crate::tokens::{TokenError, VerifyError};

/// A value of the body that a rule refuses.
fn invalid(pointer: &'static str, error: &impl Display) -> Problem {
    Problem::new(Code::InvalidBody, format!("{pointer}: {error}.")).with_field("pointer", pointer)
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::InvalidLabel => invalid("/label", &error),
            TokenError::UnknownScope => invalid("/scope", &error),
            TokenError::UnknownNamespace => invalid("/namespace", &error),
            TokenError::ExpiryInThePast => invalid("/expires_at", &error),
            TokenError::InvalidOverlap => invalid("/overlap_ms", &error),
            TokenError::EmailNotConfirmed => Self::new(Code::EmailNotConfirmed, sentence(&error)),
            TokenError::TooMany { .. } => Self::new(Code::PlanDoesNotAllow, sentence(&error)),
            TokenError::Unknown => Self::new(
                Code::NotFound,
                "Your account has no such token: it was revoked, replaced or never there. A token \
                 that has expired can be revoked, and not rotated.",
            ),
            TokenError::Database(error) => error.into(),
        }
    }
}

impl From<NamespaceError> for Problem {
    fn from(error: NamespaceError) -> Self {
        match error {
            NamespaceError::InvalidName | NamespaceError::Reserved => invalid("/name", &error),
            NamespaceError::Taken => Self::new(Code::NamespaceTaken, sentence(&error)),
            NamespaceError::InUse => Self::new(Code::NamespaceInUse, sentence(&error)),
            NamespaceError::NotInPlan | NamespaceError::TooMany { .. } => {
                Self::new(Code::PlanDoesNotAllow, sentence(&error))
            }
            NamespaceError::Unknown => Self::new(
                Code::NotFound,
                "Your account has no private namespace of this name.",
            ),
            NamespaceError::Lease(LeaseRefused::OutOfBounds { .. }) => invalid("/lease_ms", &error),
            NamespaceError::Lease(error) => error.into(),
            NamespaceError::Database(error) => error.into(),
        }
    }
}

/// Of the account that the caller's token is of.
impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Database(error) => error.into(),
            // It was deleted since the token was verified.
            AccountError::Unknown => VerifyError::Refused.into(),
            error => Self::internal(&error),
        }
    }
}

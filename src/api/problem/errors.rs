//! The nouns' errors as problems: the one place where they become HTTP.

use super::{Code, Problem, whole_seconds};
use crate::db;
use crate::locks::{EngineError, NameError};
use crate::plans::LeaseRefused;
use crate::text::sentence;
use crate::tokens::VerifyError;

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        if db::is_unavailable(&error) {
            Self::unavailable(&error)
        } else {
            Self::internal(&error)
        }
    }
}

impl From<VerifyError> for Problem {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Malformed => Self::new(
                Code::CredentialsMalformed,
                "The user name is not an API token: a token looks like \
                 0194d3a5-7c1e-4b7e-9d3f-2f1f6c0a4b11. Copy it whole.",
            ),
            VerifyError::Refused => Self::new(
                Code::TokenRefused,
                "This API token does not work: it is unknown, revoked or expired, or its account \
                 is suspended. Look at the account page, and make a new token if need be.",
            ),
            VerifyError::Throttled { retry_after } => Self::new(
                Code::TooManyUnknownTokens,
                "Too many tokens that do not work came from this address: look for a program with \
                 an old token. Ask again after Retry-After.",
            )
            .retry_after_s(whole_seconds(retry_after)),
            VerifyError::Database(error) => error.into(),
        }
    }
}

impl From<LeaseRefused> for Problem {
    fn from(error: LeaseRefused) -> Self {
        match error {
            LeaseRefused::Fixed { lease_ms } => Self::new(
                Code::PlanDoesNotAllow,
                format!(
                    "Your plan has one lease for all, {lease_ms} ms: leave lease_ms out, or get a \
                     plan with leases of your choice."
                ),
            ),
            LeaseRefused::OutOfBounds { min_ms, max_ms } => Self::new(
                Code::InvalidParameter,
                format!("lease_ms has to be from {min_ms} to {max_ms} on your plan."),
            ),
        }
    }
}

impl From<NameError> for Problem {
    fn from(error: NameError) -> Self {
        Self::new(Code::InvalidName, sentence(&error))
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded => Self::new(
                Code::Overloaded,
                "The service has more to do than it can carry, or your account has too much \
                 waiting in it. Nothing was done; ask again after Retry-After.",
            ),
            EngineError::ShuttingDown => Self::new(
                Code::ShuttingDown,
                "This node of the service is stopping. Nothing was done; ask again, and another or \
                 the next one answers. A request that waited keeps its place in the line for 20 \
                 seconds if it has a lease_id: send the same one.",
            )
            .retry_after_s(0),
            EngineError::Unknown => Self::unavailable(&error),
            EngineError::TooManyLocks { max } => Self::new(
                Code::LiveLocksLimit,
                format!(
                    "Your account holds as many locks as its plan allows, {max}: release some, or \
                     let them lapse. What it holds can still be renewed and released."
                ),
            ),
            EngineError::TooManyWaiters { max: 0 } => Self::new(
                Code::TooManyWaiters,
                "Your plan lets no request wait. Nothing was done; leave wait_ms out, and ask \
                 again while the answer is false.",
            ),
            EngineError::TooManyWaiters { max } => Self::new(
                Code::TooManyWaiters,
                format!(
                    "Your account has {max} requests that wait, which is as many as may: on this \
                     node, or for this lock. Nothing was done; let fewer programs wait at once."
                ),
            ),
            EngineError::CallerRefused => VerifyError::Refused.into(),
            EngineError::Replaced => Self::new(
                Code::TimedOut,
                "A later request with the same lease id took the place of this one in the line, \
                 and is answered for both.",
            ),
            EngineError::Refused => Self::internal(&error),
        }
    }
}

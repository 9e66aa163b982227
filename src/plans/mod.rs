//! Plans: the limits of accounts. They are rows that administrators edit, not code.

pub mod store;

use serde::Serialize;

use crate::id::PlanId;

pub use store::{create, find, list, update};

/// The plan of new accounts.
pub const DEFAULT_PLAN: &str = "hobbyist";

/// The longest lease that any plan may allow, milliseconds: a day.
pub const LEASE_CEILING_MS: i32 = 24 * 60 * 60 * 1000;
/// The shortest lease that any plan may allow, milliseconds. Under it, an ordinary pause of a
/// client or of the network ends the lease.
pub const LEASE_FLOOR_MS: i32 = 1000;
/// The longest history that any plan may have, days.
pub const HISTORY_CEILING_DAYS: i32 = 365;

/// The limits of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// The plan's name.
    pub name: String,
    /// The shortest lease, milliseconds.
    pub lease_min_ms: i32,
    /// The lease if neither request nor namespace nor account sets one, milliseconds.
    pub lease_default_ms: i32,
    /// The longest lease, milliseconds. If it equals the shortest, the lease is fixed.
    pub lease_max_ms: i32,
    /// The most private namespaces of an account; 0 if the plan has the public namespace only.
    pub max_private_namespaces: i32,
    /// The most API tokens of an account.
    pub max_tokens: i32,
    /// The most locks that an account holds at once.
    pub max_live_locks: i32,
    /// The most requests of an account that wait at once.
    pub max_waiters: i32,
    /// The most requests a second of an account on a node, with a burst of twice as many.
    pub requests_per_second: i32,
    /// How long the events of locks in private namespaces are kept, days; 0 for no history.
    pub history_days: i32,
}

impl Limits {
    /// True if accounts, namespaces and requests may choose a lease.
    pub fn lease_is_configurable(&self) -> bool {
        self.lease_min_ms < self.lease_max_ms
    }

    /// The lease for a request, milliseconds: the request's, else the namespace's, else the
    /// account's, else the plan's. A stored setting that a smaller plan no longer allows is brought
    /// into its bounds; a request's is refused.
    ///
    /// # Errors
    /// If the plan does not allow the request's lease.
    pub fn lease_ms(
        &self,
        requested_ms: Option<i64>,
        namespace_default_ms: Option<i32>,
        account_default_ms: Option<i32>,
    ) -> Result<i32, LeaseRefused> {
        if let Some(requested_ms) = requested_ms {
            return self.check_lease_ms(requested_ms);
        }
        let lease_ms = namespace_default_ms
            .or(account_default_ms)
            .unwrap_or(self.lease_default_ms);
        Ok(lease_ms.clamp(self.lease_min_ms, self.lease_max_ms))
    }

    /// Checks that the plan allows choosing this lease.
    ///
    /// # Errors
    /// If the plan's lease is fixed, or this one is out of its bounds.
    pub fn check_lease_ms(&self, lease_ms: i64) -> Result<i32, LeaseRefused> {
        if !self.lease_is_configurable() {
            return Err(LeaseRefused::Fixed {
                lease_ms: self.lease_default_ms,
            });
        }
        i32::try_from(lease_ms)
            .ok()
            .filter(|lease_ms| (self.lease_min_ms..=self.lease_max_ms).contains(lease_ms))
            .ok_or(LeaseRefused::OutOfBounds {
                min_ms: self.lease_min_ms,
                max_ms: self.lease_max_ms,
            })
    }

    /// Checks these limits against the rules for all plans.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), InvalidLimits> {
        let refuse = |field, problem: String| Err(InvalidLimits { field, problem });
        if self.name.trim().is_empty()
            || self.name.chars().count() > 100
            || self.name.chars().any(char::is_control)
        {
            return refuse("name", "give the plan a name of 1 to 100 characters".into());
        }
        for (field, value) in [
            ("lease_min_ms", self.lease_min_ms),
            ("lease_default_ms", self.lease_default_ms),
            ("lease_max_ms", self.lease_max_ms),
        ] {
            if !(LEASE_FLOOR_MS..=LEASE_CEILING_MS).contains(&value) {
                return refuse(
                    field,
                    format!(
                        "give a number of milliseconds from {LEASE_FLOOR_MS} to {LEASE_CEILING_MS}"
                    ),
                );
            }
        }
        if self.lease_min_ms > self.lease_max_ms {
            return refuse(
                "lease_max_ms",
                "the longest lease must not be shorter than the shortest".into(),
            );
        }
        if !(self.lease_min_ms..=self.lease_max_ms).contains(&self.lease_default_ms) {
            return refuse(
                "lease_default_ms",
                "the default lease must lie between the shortest and the longest".into(),
            );
        }
        for (field, value, least, most) in [
            (
                "max_private_namespaces",
                self.max_private_namespaces,
                0,
                100_000,
            ),
            ("max_tokens", self.max_tokens, 1, 100_000),
            ("max_live_locks", self.max_live_locks, 0, 100_000_000),
            ("max_waiters", self.max_waiters, 0, 1_000_000),
            (
                "requests_per_second",
                self.requests_per_second,
                1,
                1_000_000,
            ),
            ("history_days", self.history_days, 0, HISTORY_CEILING_DAYS),
        ] {
            if !(least..=most).contains(&value) {
                return refuse(field, format!("give a whole number from {least} to {most}"));
            }
        }
        Ok(())
    }
}

/// The reason for which a plan refuses a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseRefused {
    /// The plan's lease is fixed.
    #[error("the lease of this plan is fixed at {lease_ms} ms")]
    Fixed {
        /// The plan's lease, milliseconds.
        lease_ms: i32,
    },
    /// The lease is out of the plan's bounds.
    #[error("the lease must be from {min_ms} to {max_ms} ms on this plan")]
    OutOfBounds {
        /// The plan's shortest, milliseconds.
        min_ms: i32,
        /// The plan's longest, milliseconds.
        max_ms: i32,
    },
}

/// A rule that a plan's limits would break.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidLimits {
    /// The field of [`Limits`].
    pub field: &'static str,
    /// A sentence that says what to do.
    pub problem: String,
}

/// A plan, and its use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct Plan {
    pub plan_id: PlanId,
    /// Its name in commands and URLs.
    pub code: String,
    #[serde(flatten)]
    pub limits: Limits,
    /// The number of accounts on it.
    pub accounts: i64,
}

/// An error of creating or editing a plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A limit breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidLimits),
    /// The code is not `[a-z0-9-]{1,63}`.
    #[error("a plan's code is 1 to 63 of a-z, 0-9 and -")]
    InvalidCode,
    /// There is a plan of this code already.
    #[error("there is a plan `{0}` already")]
    Taken(String),
    /// There is no plan of this code.
    #[error("there is no plan `{0}`")]
    Unknown(String),
    /// The database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// True for 1 to 63 of a-z, 0-9 and `-`: the rule for plan codes and names of private namespaces.
pub(crate) fn is_slug(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn business() -> Limits {
        Limits {
            name: "Business".into(),
            lease_min_ms: 1000,
            lease_default_ms: 60_000,
            lease_max_ms: LEASE_CEILING_MS,
            max_private_namespaces: 20,
            max_tokens: 100,
            max_live_locks: 1_000_000,
            max_waiters: 10_000,
            requests_per_second: 20_000,
            history_days: 7,
        }
    }

    fn hobbyist() -> Limits {
        Limits {
            lease_min_ms: 60_000,
            lease_max_ms: 60_000,
            max_private_namespaces: 0,
            ..business()
        }
    }

    #[test]
    fn the_nearest_setting_decides_the_lease() {
        let plan = business();
        assert_eq!(plan.lease_ms(Some(5000), Some(7000), Some(9000)), Ok(5000));
        assert_eq!(plan.lease_ms(None, Some(7000), Some(9000)), Ok(7000));
        assert_eq!(plan.lease_ms(None, None, Some(9000)), Ok(9000));
        assert_eq!(plan.lease_ms(None, None, None), Ok(60_000));
    }

    #[test]
    fn requests_out_of_bounds_are_refused_and_stored_settings_are_brought_in() {
        let plan = business();
        for absurd in [0, -1, 999, 86_400_001, i64::MAX, i64::MIN] {
            assert!(plan.lease_ms(Some(absurd), None, None).is_err(), "{absurd}");
        }
        assert_eq!(
            hobbyist().lease_ms(None, Some(7000), Some(9000)),
            Ok(60_000)
        );
        assert_eq!(
            hobbyist().lease_ms(Some(60_000), None, None),
            Err(LeaseRefused::Fixed { lease_ms: 60_000 })
        );
    }

    #[test]
    fn limits_are_validated_field_by_field() {
        assert_eq!(business().validate(), Ok(()));
        let field = |limits: Limits| limits.validate().map_err(|invalid| invalid.field);
        assert_eq!(
            field(Limits {
                name: " ".into(),
                ..business()
            }),
            Err("name")
        );
        assert_eq!(
            field(Limits {
                lease_min_ms: 0,
                ..business()
            }),
            Err("lease_min_ms")
        );
        assert_eq!(
            field(Limits {
                lease_max_ms: 86_400_001,
                ..business()
            }),
            Err("lease_max_ms")
        );
        assert_eq!(
            field(Limits {
                lease_default_ms: 1000,
                lease_min_ms: 2000,
                ..business()
            }),
            Err("lease_default_ms")
        );
        assert_eq!(
            field(Limits {
                max_tokens: 0,
                ..business()
            }),
            Err("max_tokens")
        );
        assert_eq!(
            field(Limits {
                requests_per_second: -5,
                ..business()
            }),
            Err("requests_per_second")
        );
        assert_eq!(
            field(Limits {
                history_days: 366,
                ..business()
            }),
            Err("history_days")
        );
    }

    #[test]
    fn slugs() {
        assert!(is_slug("team-7") && is_slug(&"a".repeat(63)));
        assert!(!is_slug("") && !is_slug("Team") && !is_slug(&"a".repeat(64)) && !is_slug("ä"));
    }
}

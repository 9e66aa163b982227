//! The limits of a plan, for people.

use super::number::grouped;
use super::time::duration;
use crate::plans::Limits;

/// A plan's name and its limits, as pages show them.
#[derive(Debug)]
pub(crate) struct LimitsView {
    pub(crate) plan: String,
    /// Labels and values, in the order in which pages show them.
    pub(crate) rows: [(&'static str, String); Self::ROWS],
}

impl LimitsView {
    pub(crate) const ROWS: usize = 7;

    /// The limits as the plan sets them.
    pub(crate) fn of_plan(limits: &Limits) -> Self {
        Self::with_lease(limits, limits.lease_default_ms)
    }

    /// The limits of an account, whose default lease may be its own.
    pub(crate) fn of_account(limits: &Limits, lease_default_ms: Option<i32>) -> Self {
        let lease_ms = limits.lease_ms(None, None, lease_default_ms);
        Self::with_lease(limits, lease_ms.unwrap_or(limits.lease_default_ms))
    }

    fn with_lease(limits: &Limits, lease_default_ms: i32) -> Self {
        let default = duration(lease_default_ms);
        let lease = if limits.lease_is_configurable() {
            let (shortest, longest) = (limits.lease_min_ms, limits.lease_max_ms);
            format!(
                "{default} ({} to {})",
                duration(shortest),
                duration(longest)
            )
        } else {
            format!("{default}, fixed")
        };
        let private_namespaces = match limits.max_private_namespaces {
            0 => "none".to_owned(),
            number => grouped(number),
        };
        let history = match limits.history_days {
            0 => "none".to_owned(),
            1 => "1 day".to_owned(),
            days => format!("{days} days"),
        };
        Self {
            plan: limits.name.clone(),
            rows: [
                ("Lease", lease),
                ("Private namespaces", private_namespaces),
                ("API tokens", grouped(limits.max_tokens)),
                ("Live locks", grouped(limits.max_live_locks)),
                ("Waiting requests", grouped(limits.max_waiters)),
                ("Requests per second", grouped(limits.requests_per_second)),
                ("History", history),
            ],
        }
    }
}

/// The use of a limit: `3 of 1,000`.
pub(crate) fn used(number: impl TryInto<i64>, limit: i32) -> String {
    let number = number.try_into().unwrap_or(i64::MAX);
    format!("{} of {}", grouped(number), grouped(limit))
}

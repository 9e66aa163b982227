//! The holder of a token, as requests act for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::Scope;
use crate::audit::{Actor, Means};
use crate::id::{AccountId, NamespaceId, TokenId};
use crate::locks::MAX_WAITERS_OF_PUBLIC_LOCK;
use crate::plans::{LeaseRefused, Limits};

/// The account that a request acts for, with the limits of its plan.
#[derive(Debug)]
pub struct Caller {
    /// The token.
    pub token_id: TokenId,
    /// Its account.
    pub account_id: AccountId,
    /// The account's e-mail address, for the audit log.
    pub email: String,
    /// True if the account manages plans and accounts.
    pub is_admin: bool,
    /// The namespace whose locks the token takes.
    pub namespace_id: NamespaceId,
    /// That namespace's name.
    pub namespace: String,
    /// True if all accounts share that namespace.
    pub is_namespace_public: bool,
    /// False if the plan no longer covers this private namespace: its leases can be renewed and
    /// released, and no new ones granted.
    pub namespace_in_plan: bool,
    /// The rights of the token.
    pub scope: Scope,
    /// The namespace's default lease, milliseconds.
    pub namespace_lease_default_ms: Option<i32>,
    /// The account's default lease, milliseconds.
    pub account_lease_default_ms: Option<i32>,
    /// The instant at which the token expires, on this node's monotonic clock.
    pub expires_at: Option<Instant>,
    /// The limits of the plan.
    pub limits: Arc<Limits>,
    /// True if its use is already noted for the next write of `last_used_at`.
    pub(super) is_use_noted: AtomicBool,
}

impl Caller {
    /// The caller as the author of an act, in a request from `client_ip`.
    pub fn actor(&self, client_ip: IpAddr, request_id: String) -> Actor {
        Actor {
            account_id: Some(self.account_id),
            name: self.email.clone(),
            client_ip: Some(client_ip),
            request_id: Some(request_id),
            means: Means::Token(self.token_id),
        }
    }

    /// The most requests of the account that may wait for one lock of the token's namespace.
    pub fn max_waiters_of_lock(&self) -> i32 {
        if self.is_namespace_public {
            MAX_WAITERS_OF_PUBLIC_LOCK
        } else {
            i32::MAX
        }
    }

    /// The length of a lease for a request of this caller, milliseconds.
    ///
    /// # Errors
    /// If the request has a length that the plan does not allow.
    pub fn lease_ms(&self, requested_ms: Option<i64>) -> Result<i32, LeaseRefused> {
        self.limits.lease_ms(
            requested_ms,
            self.namespace_lease_default_ms,
            self.account_lease_default_ms,
        )
    }
}

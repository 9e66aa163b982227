//! The caller and the namespace or lock of a request: credentials, rate, the parts of the path.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use percent_encoding::percent_decode_str;

use super::super::problem::{Code, Problem};
use super::super::{Api, auth, bystanders, credentials};
use crate::id::{AccountId, NamespaceId};
use crate::locks::{LockKey, LockName, MAX_WAITERS_OF_PUBLIC_LOCK};
use crate::namespaces::{self, NamespaceError};
use crate::plans::LeaseRefused;
use crate::tokens::{Caller, Scope};
use crate::transport::RequestContext;

/// A request of a verified caller, within the rate of its plan.
#[derive(Debug)]
pub struct Access {
    /// The caller.
    pub caller: Arc<Caller>,
    /// The request's id and client IP.
    pub context: RequestContext,
}

impl FromRequestParts<Arc<Api>> for Access {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        bystanders::refuse(&head.headers)?;
        let context = head
            .extensions
            .get::<RequestContext>()
            .cloned()
            .ok_or_else(|| Problem::new(Code::InternalError, ""))?;
        let token = credentials::bearer_or_basic(&head.headers).map_err(|error| {
            Problem::from(error).with_header(header::WWW_AUTHENTICATE, challenge())
        })?;
        let verified = auth::verify(api, &context, &token).await;
        let caller = verified.map_err(|problem| match problem.code() {
            Code::TokenRefused | Code::CredentialsMalformed => {
                problem.with_header(header::WWW_AUTHENTICATE, challenge())
            }
            _ => problem,
        })?;
        api.rates
            .check(caller.account_id, caller.limits.requests_per_second)?;
        Ok(Self { caller, context })
    }
}

fn challenge() -> HeaderValue {
    HeaderValue::from_static("Bearer realm=\"lockable\", Basic realm=\"lockable\"")
}

impl Access {
    /// Counts a request that does the work of several: one more for each beyond the first.
    ///
    /// # Errors
    /// If that is too many for the plan's rate.
    pub fn count_as(&self, api: &Api, requests: usize) -> Result<(), Problem> {
        let more = u32::try_from(requests.saturating_sub(1)).unwrap_or(u32::MAX);
        let Some(more) = NonZeroU32::new(more) else {
            return Ok(());
        };
        let limits = &self.caller.limits;
        api.rates
            .check_many(self.caller.account_id, limits.requests_per_second, more)
    }

    /// Succeeds if the token may manage the account.
    ///
    /// # Errors
    /// [`Code::ScopeRequired`].
    pub fn require_manage(&self) -> Result<(), Problem> {
        match self.caller.scope {
            Scope::Manage => Ok(()),
            Scope::Locks => Err(Problem::new(
                Code::ScopeRequired,
                "This call needs an API token of the scope manage: yours has the scope locks.",
            )),
        }
    }

    /// The namespace of this name: a token of the scope `locks` has its own only, one of the scope
    /// `manage` all of its account's and the public one.
    ///
    /// # Errors
    /// [`Code::NotFound`] if the caller has no such namespace.
    pub async fn namespace(&self, api: &Api, name: &str) -> Result<Namespace, Problem> {
        let caller = &self.caller;
        if name == caller.namespace {
            return Ok(Namespace {
                id: caller.namespace_id,
                name: name.to_owned(),
                is_public: caller.is_namespace_public,
                is_in_plan: caller.namespace_in_plan,
                lease_default_ms: caller.namespace_lease_default_ms,
            });
        }
        if caller.scope == Scope::Locks {
            return Err(no_such_namespace());
        }
        let found = Box::pin(namespaces::find(&api.app.db, caller.account_id, name)).await;
        match found {
            Ok(found) => Ok(Namespace {
                id: found.namespace_id,
                is_public: found.namespace_id == NamespaceId::PUBLIC,
                is_in_plan: namespaces::in_plan(found.age_rank, &caller.limits),
                lease_default_ms: found.lease_default_ms,
                name: found.name,
            }),
            Err(NamespaceError::Database(error)) => Err(error.into()),
            Err(_) => Err(no_such_namespace()),
        }
    }

    /// The account that asks.
    pub fn account_id(&self) -> AccountId {
        self.caller.account_id
    }
}

fn no_such_namespace() -> Problem {
    Problem::new(
        Code::NotFound,
        "Your API token has no namespace of this name: a token of the scope locks takes the locks \
         of its own namespace only.",
    )
}

/// A namespace that a request is about.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its id.
    pub id: NamespaceId,
    /// Its name.
    pub name: String,
    /// True if all accounts share it.
    pub is_public: bool,
    /// False if the plan no longer covers it: no new leases are granted in it.
    pub is_in_plan: bool,
    /// Its default lease, milliseconds.
    pub lease_default_ms: Option<i32>,
}

impl Namespace {
    /// The most requests of an account that may wait for one of its locks.
    pub fn max_waiters_of_lock(&self) -> i32 {
        if self.is_public {
            MAX_WAITERS_OF_PUBLIC_LOCK
        } else {
            i32::MAX
        }
    }

    /// The length of a lease for a request of this caller, milliseconds.
    ///
    /// # Errors
    /// If the request has a length that the plan does not allow.
    pub fn lease_ms(&self, caller: &Caller, asked_ms: Option<i64>) -> Result<i32, LeaseRefused> {
        caller.limits.lease_ms(
            asked_ms,
            self.lease_default_ms,
            caller.account_lease_default_ms,
        )
    }

    /// Succeeds if new leases may be granted here.
    ///
    /// # Errors
    /// [`Code::PlanDoesNotAllow`].
    pub fn check_in_plan(&self) -> Result<(), Problem> {
        if self.is_in_plan {
            return Ok(());
        }
        Err(Problem::namespace_not_in_plan(&self.name))
    }
}

/// The namespace in the path of a request: `/v2/namespaces/{namespace}/…`.
#[derive(Debug)]
pub struct InNamespace {
    /// The request of a verified caller.
    pub access: Access,
    /// The namespace.
    pub namespace: Namespace,
}

impl FromRequestParts<Arc<Api>> for InNamespace {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let access = Access::from_request_parts(head, api).await?;
        let name = segment(head, 2);
        let name = percent_decode_str(&name).decode_utf8_lossy().into_owned();
        let namespace = access.namespace(api, &name).await?;
        Ok(Self { access, namespace })
    }
}

/// The lock in the path of a request: `/v2/namespaces/{namespace}/locks/{name}…`.
#[derive(Debug)]
pub struct OfLock {
    /// The request of a verified caller.
    pub access: Access,
    /// The lock's namespace.
    pub namespace: Namespace,
    /// The lock.
    pub key: LockKey,
}

impl FromRequestParts<Arc<Api>> for OfLock {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        api.app.locks.check_room()?;
        let InNamespace { access, namespace } = InNamespace::from_request_parts(head, api).await?;
        // The path as it was sent: the name is decoded here, and strictly.
        let name = LockName::parse_segment(&segment(head, 4))?;
        let key = LockKey {
            namespace_id: namespace.id,
            name,
        };
        Ok(Self {
            access,
            namespace,
            key,
        })
    }
}

/// A segment of the path as it was sent; the first is 0.
fn segment(head: &Parts, at: usize) -> String {
    let uri = head.extensions.get::<OriginalUri>();
    let path = uri.map_or(head.uri.path(), |uri| uri.0.path());
    path.split('/').nth(at + 1).unwrap_or_default().to_owned()
}

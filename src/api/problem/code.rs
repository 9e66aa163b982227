//! The codes of problem documents: all there are, with status, title and meaning.

use axum::http::StatusCode;

macro_rules! codes {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident = ($code:literal, $status:ident, $title:literal);
    )+) => {
        /// The stable `code` of a problem document, which programs decide by. A code never changes
        /// its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Code {
            /// Every code, in the order of their statuses.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its text in the document.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The status of its answers.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// A few words, the same for every occurrence.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }

            /// When it happens and what to do, for the documentation.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// The lock's name in the path is not one: empty, longer than 255 bytes, `.` or `..`, with a
    /// control character, with a bare `/`, or not percent-encoded UTF-8.
    InvalidName = ("invalid-name", BAD_REQUEST, "Not a lock's name");
    /// A query parameter has a value that it cannot have, stands twice, or does not go with this
    /// call or with another parameter.
    InvalidParameter = ("invalid-parameter", BAD_REQUEST, "Invalid parameter");
    /// There is no query parameter of that name.
    UnknownParameter = ("unknown-parameter", BAD_REQUEST, "Unknown parameter");
    /// The `Idempotency-Key` header is not a UUID, stands twice, or is another one than `lease_id`.
    InvalidIdempotencyKey = ("invalid-idempotency-key", BAD_REQUEST, "Invalid Idempotency-Key");
    /// The request has a body. Version 1 takes its parameters in the query, with POST too.
    UnexpectedBody = ("unexpected-body", BAD_REQUEST, "A body was not expected");
    /// The JSON body of a request to version 2 is malformed: no JSON, an unknown field, a key that
    /// stands twice, a value of another type or out of bounds. `pointer` is the JSON pointer to the
    /// place.
    InvalidBody = ("invalid-body", BAD_REQUEST, "Invalid body");
    /// There is no `Authorization` header. Send the API token as the user name of HTTP basic
    /// authentication; version 2 takes `Bearer` too.
    CredentialsMissing = ("credentials-missing", UNAUTHORIZED, "No API token");
    /// The `Authorization` header is not what it has to be: `Basic` and base64 of the token and a
    /// colon, or in version 2 `Bearer` and the token.
    CredentialsMalformed = ("credentials-malformed", UNAUTHORIZED, "Malformed credentials");
    /// The API token is unknown, revoked or expired, or its account is suspended. Which of them is
    /// never said.
    TokenRefused = ("token-refused", UNAUTHORIZED, "API token refused");
    /// The account's plan does not include what was asked for; `upgrade_url` says where to get it,
    /// if the operator has set one.
    PlanDoesNotAllow = ("plan-does-not-allow", FORBIDDEN, "Not in the plan");
    /// The account holds as many live locks as its plan allows: release some or let them lapse.
    /// Renewing and releasing go on working. `upgrade_url` says where to get a larger plan, if the
    /// operator has set one. A 403 and not a 429: the same request sent again soon meets the same
    /// limit.
    LiveLocksLimit = ("live-locks-limit", FORBIDDEN, "Too many live locks");
    /// A browser announced this request as a prefetch (`Sec-Purpose`, `Purpose`): nobody asked for
    /// the lock yet.
    PrefetchRefused = ("prefetch-refused", FORBIDDEN, "Prefetch refused");
    /// A browser sent this request on behalf of a page of another site (`Sec-Fetch-Site`).
    CrossSiteRefused = ("cross-site-refused", FORBIDDEN, "Cross-site request refused");
    /// The call needs an API token of the scope `manage`.
    ScopeRequired = ("scope-required", FORBIDDEN, "Another scope is needed");
    /// New API tokens need a confirmed e-mail address: press the button in the mail from the
    /// service.
    EmailNotConfirmed = ("email-not-confirmed", FORBIDDEN, "E-mail address not confirmed");
    /// There is no such address in the API, or your API token has no such thing.
    NotFound = ("not-found", NOT_FOUND, "No such address");
    /// The address exists, the method does not; `Allow` names those that do.
    MethodNotAllowed = ("method-not-allowed", METHOD_NOT_ALLOWED, "Method not allowed");
    /// The lock is held, or others wait for it; of a request that waited: it was not granted in
    /// that time. `retry_after_ms` says when to ask again. In a namespace of your own, `leases` are
    /// those that hold it, and `queue_length` is the number of requests that wait.
    LockHeld = ("lock-held", CONFLICT, "The lock is held");
    /// There is no lease to renew, release or break. `reason` is `expired`, `released`, `broken`,
    /// `superseded` (it expired, and the lock was granted again), `hold-limit` or `unknown`.
    LeaseLost = ("lease-lost", CONFLICT, "The lease is lost");
    /// The lease of this `lease_id` has ended: an id serves one lease of a lock. Draw a new one.
    LeaseIdUsed = ("lease-id-used", CONFLICT, "The lease id is used up");
    /// The lock is in use in another `mode`, or with another `limit`, which the document names.
    LimitConflict = ("limit-conflict", CONFLICT, "Another mode or limit is in force");
    /// The account has a private namespace of this name already.
    NamespaceTaken = ("namespace-taken", CONFLICT, "The name is taken");
    /// Locks are held in the private namespace, or requests wait for them: release or break them
    /// before you delete it.
    NamespaceInUse = ("namespace-in-use", CONFLICT, "The namespace is in use");
    /// The body is larger than the call takes: 64 KiB, or 1 MiB for many leases at once.
    BodyTooLarge = ("body-too-large", PAYLOAD_TOO_LARGE, "The body is too large");
    /// The body of a request to version 2 has to be JSON: `Content-Type: application/json`.
    UnsupportedMediaType =
        ("unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "Unsupported media type");
    /// More requests a second than the account's plan allows, on this node. Nothing was done; ask
    /// again after `Retry-After`.
    TooManyRequests = ("too-many-requests", TOO_MANY_REQUESTS, "Too many requests");
    /// As many requests of the account wait for locks as may: on this node, from the plan, or 10
    /// for one lock of the public namespace. Nothing was done; ask again after `Retry-After`.
    TooManyWaiters = ("too-many-waiters", TOO_MANY_REQUESTS, "Too many requests wait");
    /// Too many requests with unknown tokens came from this address. Nothing was done; ask again
    /// after `Retry-After`.
    TooManyUnknownTokens =
        ("too-many-unknown-tokens", TOO_MANY_REQUESTS, "Too many unknown tokens");
    /// Something went wrong inside the service. Its log has the cause under the request's id.
    InternalError = ("internal-error", INTERNAL_SERVER_ERROR, "Internal error");
    /// The database cannot be reached, or could not say in time whether it was done. Not an answer:
    /// ask again with the same `lease_id`.
    Unavailable = ("unavailable", SERVICE_UNAVAILABLE, "Service unavailable");
    /// More work than the service can carry is waiting. Nothing was done; ask again after
    /// `Retry-After`.
    Overloaded = ("overloaded", SERVICE_UNAVAILABLE, "Service overloaded");
    /// This node is stopping. Nothing was done; ask again at once, another or the next one answers.
    /// A request that waited keeps its place for 20 seconds if it has a `lease_id`.
    ShuttingDown = ("shutting-down", SERVICE_UNAVAILABLE, "Shutting down");
    /// No answer within the request's deadline; whether it was done is not known. Ask again with
    /// the same `lease_id`. Of a request that waited: a later one with its `lease_id` took its
    /// place.
    TimedOut = ("timed-out", SERVICE_UNAVAILABLE, "Timed out");
}

impl Code {
    /// Those that version 1 never sends.
    pub const OF_VERSION_2: &'static [Self] = &[
        Self::InvalidBody,
        Self::ScopeRequired,
        Self::EmailNotConfirmed,
        Self::LockHeld,
        Self::LeaseLost,
        Self::LeaseIdUsed,
        Self::LimitConflict,
        Self::NamespaceTaken,
        Self::NamespaceInUse,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
    ];

    /// True if a larger plan would have allowed the request.
    pub(super) fn is_about_the_plan(self) -> bool {
        matches!(self, Self::PlanDoesNotAllow | Self::LiveLocksLimit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_documented_and_in_order() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code:?}");
            assert!(
                code.as_str()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-')
            );
            assert!(
                code.meaning().ends_with('.') && !code.title().is_empty(),
                "{code:?}"
            );
        }
        assert!(Code::ALL.is_sorted_by_key(|code| code.status()));
    }
}

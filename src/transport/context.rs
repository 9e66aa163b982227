//! The context of a request: what the service knows of it besides its message.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::extract::{MatchedPath, Request};

use super::RequestId;

/// The id, client IP, route and account of a request. Cheap to clone: an extension of the request,
/// also an extractor (`Extension<RequestContext>`).
#[derive(Clone, Debug)]
pub struct RequestContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: RequestId,
    client_ip: IpAddr,
    route: OnceLock<Route>,
    /// 0: not known.
    account_id: AtomicI64,
}

/// The template that a request is counted and logged under: never its path, which the client
/// chooses.
#[derive(Clone, Debug)]
enum Route {
    /// A route that is known before there is a router.
    Template(&'static str),
    /// The route that the router found.
    Matched(MatchedPath),
}

impl RequestContext {
    /// The context of a request from `client_ip` that has no route yet.
    pub fn new(id: RequestId, client_ip: IpAddr) -> Self {
        Self::with_route(id, client_ip, OnceLock::new())
    }

    /// The context of a request from `client_ip` for the route of this template.
    pub fn for_template(id: RequestId, client_ip: IpAddr, template: &'static str) -> Self {
        Self::with_route(id, client_ip, OnceLock::from(Route::Template(template)))
    }

    fn with_route(id: RequestId, client_ip: IpAddr, route: OnceLock<Route>) -> Self {
        Self(Arc::new(Inner {
            id,
            client_ip,
            route,
            account_id: AtomicI64::new(0),
        }))
    }

    /// The request's id.
    pub fn id(&self) -> &RequestId {
        &self.0.id
    }

    /// The client's IP, trusted proxies taken into account.
    pub fn client_ip(&self) -> IpAddr {
        self.0.client_ip
    }

    /// The template of the request's route; `unmatched` if the router found none.
    pub fn route(&self) -> &str {
        match self.0.route.get() {
            Some(Route::Template(template)) => template,
            Some(Route::Matched(path)) => path.as_str(),
            None => "unmatched",
        }
    }

    /// Notes the account that the request acts for, for the log.
    pub fn set_account_id(&self, account_id: i64) {
        self.0.account_id.store(account_id, Ordering::Relaxed);
    }

    /// The account that the request acts for; `None` until its credentials are verified.
    pub fn account_id(&self) -> Option<i64> {
        Some(self.0.account_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }
}

/// Notes the router's match in the request's context. For `Router::layer`, which runs after
/// routing.
pub fn note_route(request: Request) -> Request {
    let extensions = request.extensions();
    if let (Some(context), Some(path)) = (
        extensions.get::<RequestContext>(),
        extensions.get::<MatchedPath>(),
    ) {
        context.0.route.get_or_init(|| Route::Matched(path.clone()));
    }
    request
}

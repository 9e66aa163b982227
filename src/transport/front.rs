//! What stands at each connection: answers some calls directly, everything else through the router.
//!
//! A router looks a path up, then clones and boxes a service and a few extensions for each layer of each request. For the calls that
//! this service exists for, that was a sixth of what a request costs it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use tower::{BoxError, Service};

use super::{EdgeLayer, GuardLayer, RequestContext, Route};

/// Calls that are found by their path alone.
pub trait DirectCalls: Send + Sync + 'static {
    /// One of them.
    type Call: Send;

    /// The call that a path stands for, and the template that it is counted under.
    fn find(&self, path: &str) -> Option<(Self::Call, &'static str)>;

    /// Answers it, within a deadline of its own.
    fn answer(
        &self,
        call: Self::Call,
        request: Request<Body>,
        context: &RequestContext,
    ) -> impl Future<Output = Response> + Send;
}

/// The whole service, before it knows whose connection it stands at.
pub struct Front<D>(Arc<Shared<D>>);

struct Shared<D> {
    direct: D,
    edge: EdgeLayer,
    guard: GuardLayer,
    router: Router,
}

impl<D> std::fmt::Debug for Front<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Front")
    }
}

impl<D> Clone for Front<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D: DirectCalls> Front<D> {
    /// `direct` inside `edge` and `guard`, and beside them `router`, which has its own layers.
    pub fn new(direct: D, edge: EdgeLayer, guard: GuardLayer, router: Router) -> Self {
        Self(Arc::new(Shared { direct, edge, guard, router }))
    }

    /// The service for the connection of this peer.
    pub fn at(&self, peer: SocketAddr) -> Connection<D> {
        Connection { front: self.clone(), peer }
    }
}

/// Makes the service of a connection, as servers want it made.
impl<D: DirectCalls> Service<SocketAddr> for Front<D> {
    type Response = Connection<D>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Connection<D>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, peer: SocketAddr) -> Self::Future {
        std::future::ready(Ok(self.at(peer)))
    }
}

/// The service at one connection.
pub struct Connection<D> {
    front: Front<D>,
    peer: SocketAddr,
}

impl<D> std::fmt::Debug for Connection<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<D> Clone for Connection<D> {
    fn clone(&self) -> Self {
        Self { front: self.front.clone(), peer: self.peer }
    }
}

impl<D, B> Service<Request<B>> for Connection<D>
where
    D: DirectCalls,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(body) });
        let shared = &self.front.0;
        match shared.direct.find(request.uri().path()) {
            Some((call, template)) => {
                let passing = shared.edge.enter(self.peer.ip(), Route::Template(template), &request);
                let shared = Arc::clone(shared);
                Box::pin(async move {
                    // Moved in whole: its fields by themselves would be no guard.
                    let passing = passing;
                    let handler = shared.direct.answer(call, request, passing.context());
                    let response = shared.guard.catch(handler, passing.context()).await;
                    Ok(passing.leave(response))
                })
            }
            None => {
                request.extensions_mut().insert(ConnectInfo(self.peer));
                Box::pin(shared.router.clone().call(request))
            }
        }
    }
}

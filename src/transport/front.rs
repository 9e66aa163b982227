//! What stands at each connection: answers some calls directly, everything else through the router.
//!
//! A router looks a path up, then clones and boxes a service and a few extensions for each layer of
//! each request. For the calls that this service exists for, that was a fifth of the instructions
//! of the HTTP side (docs/performance.md).

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
        Self(Arc::new(Shared {
            direct,
            edge,
            guard,
            router,
        }))
    }

    /// The service for the connection of this peer.
    pub fn at(&self, peer: SocketAddr) -> Connection<D> {
        Connection {
            front: self.clone(),
            peer,
        }
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
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl<D> Clone for Connection<D> {
    fn clone(&self) -> Self {
        Self {
            front: self.front.clone(),
            peer: self.peer,
        }
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
        let mut request = request.map(|body| {
            if body.is_end_stream() {
                Body::empty()
            } else {
                Body::new(body)
            }
        });
        let shared = &self.front.0;
        match shared.direct.find(request.uri().path()) {
            Some((call, template)) => {
                let passing =
                    shared
                        .edge
                        .enter(self.peer.ip(), Route::Template(template), &request);
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

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::super::{Outcome, TrustedProxies};
    use super::*;

    struct Calls;

    impl DirectCalls for Calls {
        type Call = bool;

        fn find(&self, path: &str) -> Option<(bool, &'static str)> {
            path.strip_prefix("/call/")
                .map(|name| (name == "panic", "/call/{name}"))
        }

        async fn answer(
            &self,
            panics: bool,
            request: Request<Body>,
            context: &RequestContext,
        ) -> Response {
            assert!(!panics, "on purpose");
            format!("{} from {}", request.uri().path(), context.client_address()).into_response()
        }
    }

    async fn ask(path: &str) -> (StatusCode, String, String) {
        let finish = |outcome, context: &RequestContext| match outcome {
            Outcome::Answer(response) => response,
            Outcome::Panicked => {
                (StatusCode::INTERNAL_SERVER_ERROR, context.id().to_string()).into_response()
            }
            Outcome::TimedOut => unreachable!("a direct call has its own deadlines"),
        };
        let edge = EdgeLayer::new(TrustedProxies::default(), false);
        let guard = GuardLayer::new(std::time::Duration::from_secs(1), finish);
        let peer =
            async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("routed from {}", peer.ip());
        let router = Router::new().route("/page", get(peer)).layer(edge.clone());
        let front = Front::new(Calls, edge, guard, router);
        let request = Request::get(path)
            .header("x-request-id", "mine")
            .body(Body::empty())
            .unwrap();
        let answer = front
            .at(([192, 0, 2, 7], 50_000).into())
            .oneshot(request)
            .await
            .unwrap();
        let request_id = answer.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1000)
            .await
            .unwrap();
        (
            status,
            String::from_utf8(body.to_vec()).unwrap(),
            request_id,
        )
    }

    #[tokio::test]
    async fn calls_go_directly_and_everything_else_through_the_router() {
        let mine = || "mine".to_owned();
        assert_eq!(
            ask("/call/a").await,
            (StatusCode::OK, "/call/a from 192.0.2.7".to_owned(), mine())
        );
        assert_eq!(
            ask("/page").await,
            (StatusCode::OK, "routed from 192.0.2.7".to_owned(), mine())
        );
        assert_eq!(ask("/nowhere").await.0, StatusCode::NOT_FOUND);
        assert_eq!(
            ask("/call/panic").await,
            (StatusCode::INTERNAL_SERVER_ERROR, mine(), mine())
        );
    }
}

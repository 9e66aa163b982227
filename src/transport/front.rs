//! The service at each connection: every request begins and ends at the edge, and is answered by a
//! direct call or by the router.
//!
//! A router looks a path up, then clones and boxes a service and a few extensions for each layer of
//! each request. The calls that this service exists for go without it: docs/performance.md says how
//! much that saves.

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

use super::{Edge, GuardLayer, RequestContext};

/// Calls that are found by their path alone.
pub trait DirectCalls: Send + Sync + 'static {
    /// One of the calls.
    type Call: Send;

    /// The call that a path stands for, and the template that it is counted under.
    fn find(&self, path: &str) -> Option<(Self::Call, &'static str)>;

    /// Answers the call, within a deadline of its own.
    fn answer(
        &self,
        call: Self::Call,
        request: Request<Body>,
        context: &RequestContext,
    ) -> impl Future<Output = Response> + Send;
}

/// The whole service. Cheap to clone.
pub struct Front<D>(Arc<Shared<D>>);

struct Shared<D> {
    direct: D,
    edge: Edge,
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
    /// `edge` around all requests; `guard` around `direct`. `router` has guards of its own, and
    /// [`note_route`](super::note_route) as its outermost layer.
    pub fn new(direct: D, edge: Edge, guard: GuardLayer, router: Router) -> Self {
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

/// Makes the service of a connection.
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
        let peer = self.peer;
        let shared = Arc::clone(&self.front.0);
        let (call, template) = shared.direct.find(request.uri().path()).unzip();
        let in_flight = shared.edge.begin(peer.ip(), template, &request);
        Box::pin(async move {
            // Moved in whole: its fields by themselves would not log the request when dropped.
            let in_flight = in_flight;
            let response = match call {
                Some(call) => {
                    let handler = shared.direct.answer(call, request, in_flight.context());
                    shared.guard.catch(handler, in_flight.context()).await
                }
                None => {
                    let extensions = request.extensions_mut();
                    extensions.insert(ConnectInfo(peer));
                    extensions.insert(in_flight.context().clone());
                    let Ok(response) = shared.router.clone().call(request).await;
                    response
                }
            };
            Ok(in_flight.complete(response))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse;
    use axum::routing::get;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt;
    use tower::util::MapRequestLayer;

    use super::super::{HandlerResult, TrustedProxies, note_route};
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
            format!("{} from {}", request.uri().path(), context.client_ip()).into_response()
        }
    }

    fn front() -> Front<Calls> {
        let finish = |result, context: &RequestContext| match result {
            HandlerResult::Answer(response) => response,
            HandlerResult::Panicked => {
                (StatusCode::INTERNAL_SERVER_ERROR, context.id().to_string()).into_response()
            }
            HandlerResult::TimedOut => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let guard = GuardLayer::new(Duration::from_millis(20), finish);
        let peer =
            async |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("routed from {}", peer.ip());
        let router = Router::new()
            .route("/page", get(peer))
            .route(
                "/cached/{x}",
                get(async || ([(header::CACHE_CONTROL, "max-age=5")], "fine")),
            )
            .route(
                "/panic",
                get(async || -> &'static str { panic!("on purpose") }),
            )
            .route("/slow", get(std::future::pending::<()>))
            .layer((MapRequestLayer::new(note_route), guard.clone()));
        let edge = Edge::new(TrustedProxies::default(), true);
        Front::new(Calls, edge, guard, router)
    }

    fn send(front: &Front<Calls>, path: &str) -> impl Future<Output = Response> + use<> {
        let request = Request::get(path)
            .header("x-request-id", "mine")
            .body(Body::empty())
            .unwrap();
        let connection = front.at(([192, 0, 2, 7], 50_000).into());
        async { connection.oneshot(request).await.unwrap() }
    }

    async fn status_and_body(path: &str) -> (StatusCode, String) {
        let answer = send(&front(), path).await;
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1000)
            .await
            .unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn calls_go_directly_and_everything_else_through_the_router() {
        for (path, status, body) in [
            ("/call/a", StatusCode::OK, "/call/a from 192.0.2.7"),
            ("/page", StatusCode::OK, "routed from 192.0.2.7"),
            ("/nowhere", StatusCode::NOT_FOUND, ""),
        ] {
            assert_eq!(status_and_body(path).await, (status, body.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_panic_and_a_missed_deadline_are_answers() {
        let panicked = (StatusCode::INTERNAL_SERVER_ERROR, "mine".to_owned());
        assert_eq!(status_and_body("/call/panic").await, panicked);
        assert_eq!(status_and_body("/panic").await, panicked);
        assert_eq!(
            status_and_body("/slow").await.0,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }

    #[tokio::test]
    async fn every_answer_carries_the_headers_and_a_handler_may_choose_its_caching() {
        for path in [
            "/call/a",
            "/call/panic",
            "/cached/1",
            "/nowhere",
            "/panic",
            "/slow",
        ] {
            let answer = send(&front(), path).await;
            let headers = answer.headers();
            assert_eq!(headers["x-request-id"], "mine", "{path}");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["referrer-policy"], "same-origin");
            assert_eq!(headers["strict-transport-security"], "max-age=31536000");
            let caching = if path == "/cached/1" {
                "max-age=5"
            } else {
                "no-store"
            };
            assert_eq!(headers["cache-control"], caching);
        }
    }

    #[test]
    fn requests_are_counted_by_route_also_if_the_client_goes_away() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        metrics::with_local_recorder(&recorder, || {
            let front = front();
            runtime.block_on(async {
                for path in ["/call/a", "/cached/1", "/nowhere"] {
                    send(&front, path).await;
                }
                // Polled once and dropped: a timer might lose against the deadline of the call.
                let mut request = Box::pin(send(&front, "/slow"));
                assert!(futures_util::poll!(request.as_mut()).is_pending());
            });
        });
        let counted = recorder.handle().render();
        for sample in [
            "lockable_http_requests_total{route=\"/call/{name}\",method=\"GET\",status=\"200\"} 1",
            "lockable_http_requests_total{route=\"/cached/{x}\",method=\"GET\",status=\"200\"} 1",
            "lockable_http_requests_total{route=\"unmatched\",method=\"GET\",status=\"404\"} 1",
            "lockable_http_requests_total{route=\"/slow\",method=\"GET\",status=\"499\"} 1",
            "lockable_http_requests_in_flight 0",
        ] {
            assert!(
                counted.lines().any(|line| line == sample),
                "{sample} in:\n{counted}"
            );
        }
    }
}

//! The outer layer: gives a request its id and its client's address, and when the answer is there
//! writes the log line, counts, and adds the headers that every answer of the service has.
//!
//! One layer rather than five: each would clone and box the service once more per request, and this
//! stands on the path of every acquire. Who does not need a layer calls [`EdgeLayer::enter`] and
//! [`Passing::leave`].

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use metrics::{Counter, Histogram};
use tower::{Layer, Service};

use super::{RequestContext, RequestId, TrustedProxies, request_id};

/// Names and units of what the edge counts.
pub mod metric {
    /// Requests answered, by route template, method and status.
    pub const REQUESTS: &str = "lockable_http_requests_total";
    /// From the request's head to the answer's head, seconds, by route template.
    pub const DURATION: &str = "lockable_http_request_duration_seconds";
    /// Requests that are being answered now.
    pub const IN_FLIGHT: &str = "lockable_http_requests_in_flight";

    /// Sensible histogram buckets for [`DURATION`], seconds.
    pub const DURATION_BUCKETS: &[f64] = &[
        0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        10.0, 30.0,
    ];

    /// Tells the exporter what each of them is.
    pub fn describe() {
        metrics::describe_counter!(REQUESTS, "Requests answered, by route, method and status");
        metrics::describe_histogram!(
            DURATION,
            metrics::Unit::Seconds,
            "From a request's head to its answer's head"
        );
        metrics::describe_gauge!(IN_FLIGHT, "Requests that are being answered now");
    }
}

/// Puts [`Edge`] around a service. Apply it with `Router::layer`, which runs it after routing: the
/// log line and the metrics need the route's template.
#[derive(Clone)]
pub struct EdgeLayer(Arc<Shared>);

struct Shared {
    proxies: TrustedProxies,
    hsts: bool,
    metrics: RouteMetrics,
    in_flight: metrics::Gauge,
}

impl EdgeLayer {
    /// `served_over_tls`: the public address is `https`, so browsers are told to keep to it.
    pub fn new(proxies: TrustedProxies, served_over_tls: bool) -> Self {
        Self(Arc::new(Shared {
            proxies,
            hsts: served_over_tls,
            metrics: RouteMetrics::default(),
            in_flight: metrics::gauge!(metric::IN_FLIGHT),
        }))
    }

    /// A request comes in, from this peer.
    pub fn enter(&self, peer: IpAddr, route: Route, request: &Request) -> Passing {
        let started = Instant::now();
        let client_address = self.0.proxies.client_address(peer, request.headers());
        self.0.in_flight.increment(1);
        Passing {
            route,
            method: request.method().clone(),
            context: RequestContext::new(
                RequestId::from_headers(request.headers()),
                client_address,
            ),
            started,
            shared: self.0.clone(),
            answered: None,
        }
    }
}

/// What a request is counted and logged under: never its path, which is the client's to choose.
#[derive(Clone, Debug)]
pub enum Route {
    /// The template of a route that is known before there is a router.
    Template(&'static str),
    /// The template that the router found.
    Matched(MatchedPath),
    /// There is no such route.
    Unmatched,
}

impl Route {
    fn as_str(&self) -> &str {
        match self {
            Self::Template(template) => template,
            Self::Matched(path) => path.as_str(),
            Self::Unmatched => "unmatched",
        }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`EdgeLayer`].
#[derive(Clone)]
pub struct Edge<S> {
    inner: S,
    layer: EdgeLayer,
}

impl<S> Service<Request> for Edge<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let peer = request
            .extensions()
            .get::<ConnectInfo<SocketAddr>>()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |connection| {
                connection.0.ip()
            });
        let route = request
            .extensions()
            .get::<MatchedPath>()
            .cloned()
            .map_or(Route::Unmatched, Route::Matched);
        let passing = self.layer.enter(peer, route, &request);
        request.extensions_mut().insert(passing.context().clone());
        let handler = self.inner.call(request);
        Box::pin(async move {
            // Moved in whole: its fields by themselves would be no guard.
            let passing = passing;
            Ok(passing.leave(handler.await?))
        })
    }
}

/// What is said of a request whose client went away before there was an answer. No registered
/// status; the one that proxies have used for it for long.
const CLIENT_GONE: u16 = 499;

/// A request that is being answered. Its end is logged and counted when this is dropped: also where
/// the client has gone away and nobody polls for the answer any more.
pub struct Passing {
    route: Route,
    method: Method,
    context: RequestContext,
    started: Instant,
    shared: Arc<Shared>,
    answered: Option<StatusCode>,
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl Passing {
    /// What is known of the request.
    pub fn context(&self) -> &RequestContext {
        &self.context
    }

    /// It has its answer, which gets the headers that every answer has.
    pub fn leave(mut self, mut response: Response) -> Response {
        dress(response.headers_mut(), &self.context, self.shared.hsts);
        self.answered = Some(response.status());
        response
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let route = self.route.as_str();
        let status = self.answered.map_or(CLIENT_GONE, |status| status.as_u16());
        self.shared.in_flight.decrement(1);
        self.shared
            .metrics
            .record(route, &self.method, status, duration);
        tracing::info!(
            target: "lockable::request",
            method = self.method.as_str(),
            route,
            status,
            duration_ms = duration.as_micros() as f64 / 1000.0,
            request_id = self.context.id().as_str(),
            account_id = self.context.account_id(),
            client = %self.context.client_address(),
            "request"
        );
    }
}

/// The headers of every answer. What a handler has said stands; what nobody said is never cached.
fn dress(headers: &mut HeaderMap, context: &RequestContext, hsts: bool) {
    const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
    const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
    const SAME_ORIGIN: HeaderValue = HeaderValue::from_static("same-origin");
    const A_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");

    headers.insert(request_id::HEADER, context.id().header_value());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers.entry(header::CACHE_CONTROL).or_insert(NO_STORE);
    headers
        .entry(header::REFERRER_POLICY)
        .or_insert(SAME_ORIGIN);
    if hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, A_YEAR);
    }
}

/// The metrics' handles by route, so that a request does not build and hash its labels again.
#[derive(Default)]
struct RouteMetrics(RwLock<HashMap<Box<str>, RouteHandles>>);

struct RouteHandles {
    duration: Histogram,
    requests: Vec<(u16, &'static str, Counter)>,
}

impl RouteHandles {
    fn count(&self, method: &'static str, status: u16) -> bool {
        let counter = self
            .requests
            .iter()
            .find(|(s, m, _)| *s == status && *m == method);
        counter
            .inspect(|(_, _, counter)| counter.increment(1))
            .is_some()
    }
}

impl RouteMetrics {
    fn record(&self, route: &str, method: &Method, status: u16, duration: Duration) {
        let method = method_label(method);
        if let Some(handles) = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(route)
            && handles.count(method, status)
        {
            handles.duration.record(duration);
            return;
        }
        let mut routes = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let handles = routes.entry(route.into()).or_insert_with(|| RouteHandles {
            duration: metrics::histogram!(metric::DURATION, "route" => route.to_owned()),
            requests: Vec::new(),
        });
        if !handles.count(method, status) {
            let counter = metrics::counter!(metric::REQUESTS, "route" => route.to_owned(), "method" => method,
                "status" => status.to_string());
            counter.increment(1);
            handles.requests.push((status, method, counter));
        }
        handles.duration.record(duration);
    }
}

/// Whatever a client invents as a method must not become a time series of its own.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::super::{GuardLayer, Outcome};
    use super::*;
    use axum::response::IntoResponse;
    use metrics_exporter_prometheus::PrometheusBuilder;

    fn service() -> Router {
        let finish = |outcome, context: &RequestContext| match outcome {
            Outcome::Answer(response) => response,
            Outcome::Panicked => {
                (StatusCode::INTERNAL_SERVER_ERROR, context.id().to_string()).into_response()
            }
            Outcome::TimedOut => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        Router::new()
            .route(
                "/ok/{x}",
                get(async || ([(header::CACHE_CONTROL, "max-age=5")], "fine")),
            )
            .route(
                "/panic",
                get(async || -> &'static str { panic!("on purpose") }),
            )
            .route("/slow", get(std::future::pending::<()>))
            .layer((
                EdgeLayer::new(TrustedProxies::default(), true),
                GuardLayer::new(Duration::from_millis(20), finish),
            ))
    }

    async fn ask(path: &str) -> Response {
        let request = Request::get(path)
            .header("x-request-id", "mine")
            .body(Body::empty())
            .unwrap();
        service().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn every_answer_carries_the_headers_and_a_handler_may_choose_its_caching() {
        for path in ["/ok/1", "/nowhere", "/panic", "/slow"] {
            let answer = ask(path).await;
            let headers = answer.headers();
            assert_eq!(headers["x-request-id"], "mine", "{path}");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["referrer-policy"], "same-origin");
            assert_eq!(headers["strict-transport-security"], "max-age=31536000");
            assert_eq!(
                headers["cache-control"],
                if path == "/ok/1" {
                    "max-age=5"
                } else {
                    "no-store"
                }
            );
        }
    }

    #[tokio::test]
    async fn a_panic_and_a_missed_deadline_are_answers() {
        let panicked = ask("/panic").await;
        assert_eq!(panicked.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(
            axum::body::to_bytes(panicked.into_body(), 100)
                .await
                .unwrap(),
            "mine"
        );
        assert_eq!(ask("/slow").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_request_is_counted_also_where_its_client_goes_away() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        metrics::with_local_recorder(&recorder, || {
            let service = Router::new()
                .route("/slow", get(std::future::pending::<()>))
                .route("/fast", get(async || "done"))
                .layer(EdgeLayer::new(TrustedProxies::default(), false));
            let ask = |path: &str| {
                service
                    .clone()
                    .oneshot(Request::get(path).body(Body::empty()).unwrap())
            };
            runtime.block_on(async {
                ask("/fast").await.unwrap();
                let gone = tokio::time::timeout(Duration::from_millis(1), ask("/slow")).await;
                assert!(gone.is_err());
            });
        });
        let counted = recorder.handle().render();
        let has = |line: &str| {
            assert!(
                counted.lines().any(|it| it == line),
                "{line} in:\n{counted}"
            );
        };
        has("lockable_http_requests_total{route=\"/fast\",method=\"GET\",status=\"200\"} 1");
        has("lockable_http_requests_total{route=\"/slow\",method=\"GET\",status=\"499\"} 1");
        has("lockable_http_requests_in_flight 0");
    }
}

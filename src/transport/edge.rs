//! The beginning and the end of every request: its id and client IP, its log line and metrics, and
//! the headers that every answer of the service has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use metrics::{Counter, Histogram};

use super::{RequestContext, RequestId, TrustedProxies, request_id};

/// Names and units of the metrics of requests.
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

    /// Describes them to the exporter.
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

/// Begins requests. Cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Shared>);

struct Shared {
    proxies: TrustedProxies,
    needs_hsts: bool,
    metrics: RouteMetrics,
    in_flight: metrics::Gauge,
}

impl Edge {
    /// `is_served_over_tls`: the public URL is `https`, so answers carry HSTS.
    pub fn new(proxies: TrustedProxies, is_served_over_tls: bool) -> Self {
        Self(Arc::new(Shared {
            proxies,
            needs_hsts: is_served_over_tls,
            metrics: RouteMetrics::default(),
            in_flight: metrics::gauge!(metric::IN_FLIGHT),
        }))
    }

    /// Begins a request from this peer. `template` is that of its route; `None` if the router is
    /// still to find it.
    pub fn begin(
        &self,
        peer: IpAddr,
        template: Option<&'static str>,
        request: &Request,
    ) -> InFlightRequest {
        let started = Instant::now();
        let id = RequestId::from_headers(request.headers());
        let client_ip = self.0.proxies.client_ip(peer, request.headers());
        self.0.in_flight.increment(1);
        InFlightRequest {
            method: request.method().clone(),
            context: match template {
                Some(template) => RequestContext::for_template(id, client_ip, template),
                None => RequestContext::new(id, client_ip),
            },
            started,
            shared: self.0.clone(),
            status: None,
        }
    }
}

/// The status that a request is counted under if its client went away before there was an answer.
/// Not a registered status, but the one that proxies have used for it for long.
const CLIENT_GONE: u16 = 499;

/// A request that is being answered. Dropping it logs and counts the request's end: also if the
/// client has gone away and nobody polls for the answer any more.
pub struct InFlightRequest {
    method: Method,
    context: RequestContext,
    started: Instant,
    shared: Arc<Shared>,
    status: Option<StatusCode>,
}

impl std::fmt::Debug for InFlightRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InFlightRequest")
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl InFlightRequest {
    /// The request's context.
    pub fn context(&self) -> &RequestContext {
        &self.context
    }

    /// Ends the request with this answer, which gets the headers that every answer has.
    pub fn complete(mut self, mut response: Response) -> Response {
        set_common_headers(
            response.headers_mut(),
            &self.context,
            self.shared.needs_hsts,
        );
        self.status = Some(response.status());
        response
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        let duration = self.started.elapsed();
        let route = self.context.route();
        let status = self.status.map_or(CLIENT_GONE, |status| status.as_u16());
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
            client = %self.context.client_ip(),
            "request"
        );
    }
}

/// Sets the headers of every answer. A handler's own `Cache-Control` and `Referrer-Policy` stay;
/// without one, an answer is never cached.
fn set_common_headers(headers: &mut HeaderMap, context: &RequestContext, needs_hsts: bool) {
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
    if needs_hsts {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, A_YEAR);
    }
}

/// The handles of the metrics by route, so that a request does not build and hash its labels again.
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
            let counter = metrics::counter!(
                metric::REQUESTS,
                "route" => route.to_owned(), "method" => method, "status" => status.to_string()
            );
            counter.increment(1);
            handles.requests.push((status, method, counter));
        }
        handles.duration.record(duration);
    }
}

/// The label of a method. A method that a client invents must not become a time series of its own.
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

//! The cost of the service's own parts of an acquire, one by one: `cargo bench --bench hot_path`.
//!
//! There is no database. `script/bench` measures the cost of PostgreSQL and the network, and that
//! of all of it together.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::Response;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use lockable::api::calls::ACQUIRE;
use lockable::api::parameters::Parameters;
use lockable::api::rates::RequestRates;
use lockable::api::{credentials, v1};
use lockable::id::AccountId;
use lockable::locks::{Lease, LockName, Mode};
use lockable::secret::Secret;
use lockable::transport::{
    DirectCalls, Edge, Front, GuardLayer, HandlerResult, RequestContext, RequestId, TrustedProxies,
    note_route,
};
use tower::ServiceExt;
use tower::util::MapRequestLayer;
use uuid::Uuid;

const TOKEN: &str = "0194d3a5-7c1e-4b7e-9d3f-2f1f6c0a4b11";
const CLIENT_IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn headers() -> HeaderMap {
    use base64::Engine;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{TOKEN}:"));
    let value = HeaderValue::from_str(&format!("Basic {credentials}")).expect("visible ASCII");
    HeaderMap::from_iter([
        (header::AUTHORIZATION, value),
        (header::HOST, HeaderValue::from_static("127.0.0.1:8080")),
    ])
}

fn lease() -> Lease {
    Lease {
        lease_id: Uuid::from_u128(0x0194_d3a5_7c1e_4b7e_9d3f_2f1f_6c0a_4b11),
        fencing_token: 4_294_967_297,
        expires_in_ms: 60_000,
        lease_ms: 60_000,
        acquired_at: chrono::DateTime::UNIX_EPOCH,
        expires_at: chrono::DateTime::UNIX_EPOCH,
        mode: Mode::Exclusive,
        slot: None,
        max_hold_ms: None,
        waited_ms: 0,
        holder: None,
        metadata: None,
    }
}

/// The cost of reading a request.
fn reading(criterion: &mut Criterion) {
    let headers = headers();
    criterion.bench_function("name, plain", |b| {
        b.iter(|| LockName::parse_segment(black_box("nightly-report")));
    });
    criterion.bench_function("name, percent-encoded", |b| {
        b.iter(|| LockName::parse_segment(black_box("reports%2Fnightly%20%C3%BC")));
    });
    criterion.bench_function("credentials", |b| {
        b.iter(|| credentials::basic(black_box(&headers)).map(|_| ()));
    });
    criterion.bench_function("parameters, none", |b| {
        b.iter(|| Parameters::parse(&ACQUIRE, black_box(None), &headers));
    });
    criterion.bench_function("parameters, all", |b| {
        let query = format!("lease_ms=30000&wait_ms=0&lease_id={TOKEN}");
        b.iter(|| Parameters::parse(&ACQUIRE, black_box(Some(&*query)), &headers));
    });
}

/// The cost of a verified token, each time.
fn authentication(criterion: &mut Criterion) {
    let token = Secret::new(TOKEN);
    criterion.bench_function("token digest", |b| b.iter(|| black_box(&token).sha256()));
    let cache = moka::sync::Cache::new(100_000);
    cache.insert(token.sha256(), std::sync::Arc::new(1));
    criterion.bench_function("look-up in the cache of tokens", |b| {
        b.iter(|| cache.get(black_box(&token.sha256())));
    });
    let rates = RequestRates::default();
    criterion.bench_function("count against the account's rate", |b| {
        b.iter(|| rates.check(black_box(AccountId(1)), 1_000_000));
    });
}

/// The cost of writing a response.
fn writing(criterion: &mut Criterion) {
    let lease = lease();
    criterion.bench_function("response, granted", |b| {
        b.iter(|| v1::granted(black_box(&lease)));
    });
    criterion.bench_function("request id", |b| b.iter(RequestId::generate));
    criterion.bench_function("lease id", |b| {
        b.iter(|| uuid::Builder::from_random_bytes(rand::random()).into_uuid());
    });
    criterion.bench_function("request context", |b| {
        b.iter(|| RequestContext::new(RequestId::generate(), black_box(CLIENT_IP)));
    });
}

/// A handler that does nothing but respond.
struct Granted;

impl DirectCalls for Granted {
    type Call = ();

    fn find(&self, path: &str) -> Option<((), &'static str)> {
        path.starts_with("/v1/")
            .then_some(((), "/v1/acquire/{name}"))
    }

    async fn answer(&self, (): (), _: Request<Body>, _: &RequestContext) -> Response {
        v1::granted(&lease())
    }
}

/// The cost of the layers that every request passes around such a handler: directly, as the API's
/// calls do, and through a router, as all other requests do.
fn layers(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let finish = |outcome, _: &RequestContext| match outcome {
        HandlerResult::Answer(response) => response,
        HandlerResult::Panicked | HandlerResult::TimedOut => {
            unreachable!("the handler does neither")
        }
    };
    let guard = GuardLayer::new(std::time::Duration::from_secs(10), finish);
    let edge = Edge::new(TrustedProxies::default(), false);
    let router = axum::Router::new()
        .route(
            "/routed/{name}",
            axum::routing::any(async || v1::granted(&lease())),
        )
        .layer((MapRequestLayer::new(note_route), guard.clone()));
    let front = Front::new(Granted, edge, guard, router);
    let mut measure = |name: &str, path: &str| {
        let request = || {
            let mut request = Request::get(path).body(Body::empty()).expect("a request");
            *request.headers_mut() = headers();
            request
        };
        criterion.bench_function(name, |b| {
            b.to_async(Current(&runtime)).iter_batched(
                || (front.at((CLIENT_IP, 50_000).into()), request()),
                async |(connection, request)| connection.oneshot(request).await,
                BatchSize::SmallInput,
            );
        });
    };
    measure("edge and guard, directly", "/v1/acquire/nightly-report");
    measure(
        "edge and guard, through the router",
        "/routed/nightly-report",
    );
}

/// A tokio runtime, as criterion wants one; its own adapter would bring in all of tokio's features.
struct Current<'a>(&'a tokio::runtime::Runtime);

impl criterion::async_executor::AsyncExecutor for Current<'_> {
    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.0.block_on(future)
    }
}

criterion_group!(hot_path, reading, authentication, writing, layers);
criterion_main!(hot_path);

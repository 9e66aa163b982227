//! The HTTP side alone, for `script/bench`: the service's own listener, layers, authentication
//! (with its cache, which is notified of changes), rates, parsing and rendering, and a made-up
//! outcome in place of the lock engine's.
//!
//! It shows how much is left for the engine and the database to take. Under `/each` it does what
//! the engine does not: it sends the engine's own statement, but in a transaction for every
//! request. It is no part of the service: a program beside it.

use std::net::SocketAddr;
use std::sync::Mutex;

use anyhow::Context;
use axum::Router;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum_server::Handle;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use lockable::api::auth::authenticate;
use lockable::api::calls::ACQUIRE;
use lockable::api::parameters::Parameters;
use lockable::api::problem::{Problem, ProblemWriter};
use lockable::api::{Api, v1};
use lockable::app::App;
use lockable::cli::logging;
use lockable::config::{LogSettings, Settings};
use lockable::db::{self, Purpose, Source};
use lockable::locks::engine::{FastOutcome, statements};
use lockable::locks::{Acquire, AcquireOutcome, Lease, LockKey, LockName, Mode};
use lockable::mail::{MailSettings, Mailer};
use lockable::server::connections::{self, Limits};
use lockable::transport::{DirectCalls, Edge, Front, GuardLayer, RequestContext, TrustedProxies};
use lockable::{jobs, server};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// As in the service.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The number of connections that `/each` may use at once.
const CONNECTIONS: usize = 64;

const ALONE_PREFIX: &str = "/v1/acquire/";
const EACH_PREFIX: &str = "/each/acquire/";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    log: LogSettings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Cli { settings, log } = Cli::parse();
    let _flush_at_end = logging::start(&log, "info").map_err(anyhow::Error::msg)?;
    anyhow::ensure!(
        settings.database.database_url.is_some(),
        "DATABASE_URL says whose tokens are known: set it"
    );
    let listener = std::net::TcpListener::bind(settings.listen).context("cannot listen")?;
    let socket_address: SocketAddr = listener.local_addr()?;
    let source = Source::for_command(&settings.database)?;
    let mail = Mailer::start(&MailSettings {
        smtp_url: None,
        from: None,
        outbox: settings.database.data_dir()?.join("outbox"),
        public_url: settings.public_url(socket_address),
    })?;
    let app = App::new(settings, socket_address, source.options().clone(), mail);
    jobs::spawn(&app, &TaskTracker::new());
    let connections = Connections {
        idle: Mutex::default(),
        permits: Semaphore::new(CONNECTIONS),
        database: source.options().clone(),
    };
    println!("listening on {socket_address}");
    let limits = Limits {
        total: 24_000,
        per_network: 24_000,
    };
    let clients = connections::Connections::new(limits, TrustedProxies::default());
    let front = front(app, connections);
    server::listener::serve(listener, None, clients, Handle::new(), front).await?;
    Ok(())
}

/// The front, as `lockable::server::front` puts it together for the API's calls.
fn front(app: App, connections: Connections) -> Front<Calls> {
    let edge = Edge::new(TrustedProxies::new([]), false);
    let problems = ProblemWriter::new(&app.public_url, None);
    let guard = GuardLayer::new(server::DEADLINE, move |outcome, context| {
        problems.finish(outcome, context)
    });
    Front::new(
        Calls {
            api: Api::new(app),
            connections,
        },
        edge,
        guard,
        Router::new(),
    )
}

struct Calls {
    api: Api,
    connections: Connections,
}

/// The HTTP side alone, or with a transaction for each request.
#[derive(Clone, Copy)]
enum Call {
    Alone,
    Each,
}

impl DirectCalls for Calls {
    type Call = Call;

    fn find(&self, path: &str) -> Option<(Call, &'static str)> {
        match path {
            _ if path.starts_with(ALONE_PREFIX) => Some((Call::Alone, "/v1/acquire/{name}")),
            _ if path.starts_with(EACH_PREFIX) => Some((Call::Each, "/each/acquire/{name}")),
            _ => None,
        }
    }

    async fn answer(&self, call: Call, request: Request, context: &RequestContext) -> Response {
        let (head, _body) = request.into_parts();
        match call {
            Call::Alone => acquire(&self.api, &head, context).await.into_response(),
            Call::Each => Box::pin(acquire_each(&self.api, &self.connections, &head, context))
                .await
                .into_response(),
        }
    }
}

/// The request that `api::v1` would submit to the engine for an acquire.
async fn read_acquire(
    api: &Api,
    head: &Parts,
    prefix: &str,
    context: &RequestContext,
) -> Result<Acquire, Problem> {
    let caller = authenticate(api, context, &head.headers).await?;
    let name = LockName::parse_segment(head.uri.path().strip_prefix(prefix).unwrap_or_default())?;
    let parameters = Parameters::parse(&ACQUIRE, head.uri.query(), &head.headers)?;
    Ok(Acquire {
        key: LockKey {
            namespace_id: caller.namespace_id,
            name,
        },
        account_id: caller.account_id,
        token_id: caller.token_id,
        lease_id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
        needs_proof: false,
        lease_ms: caller.lease_ms(parameters.lease_ms)?,
        requested_ms: None,
        holder: None,
        metadata: None,
        mode: Mode::Exclusive,
        max_hold_ms: None,
        wait_ms: 0,
        max_live_locks: caller.limits.max_live_locks,
        max_waiters: caller.limits.max_waiters,
        max_waiters_of_lock: caller.max_waiters_of_lock(),
    })
}

async fn acquire(api: &Api, head: &Parts, context: &RequestContext) -> Result<Response, Problem> {
    let request = std::hint::black_box(read_acquire(api, head, ALONE_PREFIX, context).await?);
    Ok(v1::granted(&Lease {
        lease_id: request.lease_id,
        fencing_token: 1,
        expires_in_ms: request.lease_ms,
        lease_ms: request.lease_ms,
        acquired_at: chrono::DateTime::UNIX_EPOCH,
        expires_at: chrono::DateTime::UNIX_EPOCH,
        mode: Mode::Exclusive,
        slot: None,
        max_hold_ms: None,
        waited_ms: 0,
        holder: None,
        metadata: None,
    }))
}

/// Connections that are set up as the engine's, opened when they are first needed, and not checked
/// before they are used.
struct Connections {
    idle: Mutex<Vec<PgConnection>>,
    permits: Semaphore,
    database: PgConnectOptions,
}

async fn acquire_each(
    api: &Api,
    connections: &Connections,
    head: &Parts,
    context: &RequestContext,
) -> Result<Response, Problem> {
    let request = read_acquire(api, head, EACH_PREFIX, context).await?;
    let _permit = connections.permits.acquire().await.expect("never closed");
    let idle = connections
        .idle
        .lock()
        .expect("nobody panics with it")
        .pop();
    let mut connection = match idle {
        Some(connection) => connection,
        None => db::connect(&connections.database, Purpose::LockEngine).await?,
    };
    let outcome = statements::insert_if_absent(&mut connection, &[&request], latest_at())
        .await?
        .pop()
        .flatten();
    connections
        .idle
        .lock()
        .expect("nobody panics with it")
        .push(connection);
    match outcome {
        Some(FastOutcome::Decided(AcquireOutcome::Granted(lease))) => Ok(v1::granted(&lease)),
        _ => Ok(Response::new("{\"response\": false}".into())),
    }
}

/// The statements may write whenever they arrive.
fn latest_at() -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(1)
}

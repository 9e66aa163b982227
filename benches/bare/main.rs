//! The HTTP side alone, for `script/bench`: the service's own listener, layers, authentication
//! (with its cache, told of changes), rates, parsing and rendering, and where the lock engine would
//! be asked, an answer that is made up.
//!
//! It shows what is left for the engine and the database to take. Under `/each` it has the way that
//! the engine does not go: the engine's own statement, but a transaction for every request. It is
//! no part of the service: a program beside it.

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
use lockable::api::parameters::{Operation, Parameters};
use lockable::api::problem::{Problem, ProblemWriter};
use lockable::api::{Api, v1};
use lockable::app::App;
use lockable::cli::logging;
use lockable::config::{LogSettings, Settings};
use lockable::db::{self, Purpose, Source};
use lockable::locks::engine::statements;
use lockable::locks::{Acquire, AcquireOutcome, Lease, LockKey, LockName};
use lockable::mail::{MailSettings, Mailer};
use lockable::transport::{
    DirectCalls, EdgeLayer, Front, GuardLayer, RequestContext, TrustedProxies,
};
use lockable::{jobs, server};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// As in the service.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What `/each` may use at once.
const CONNECTIONS: usize = 64;

const ALONE: &str = "/v1/acquire/";
const EACH: &str = "/each/acquire/";

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
    let address: SocketAddr = listener.local_addr()?;
    let source = Source::for_command(&settings.database)?;
    let mail = Mailer::start(&MailSettings {
        smtp_url: None,
        from: None,
        outbox: settings.database.data_dir()?.join("outbox"),
        public_url: settings.public_url(address),
    })?;
    let app = App::new(settings, address, source.options().clone(), mail);
    jobs::spawn(&app, &TaskTracker::new());
    let each = Each {
        free: Mutex::default(),
        turns: Semaphore::new(CONNECTIONS),
        database: source.options().clone(),
    };
    println!("listening on {address}");
    server::listener::serve(listener, None, Handle::new(), front(app, each)).await?;
    Ok(())
}

/// As `lockable::server::front` puts it together for the API's calls.
fn front(app: App, each: Each) -> Front<Calls> {
    let edge = EdgeLayer::new(TrustedProxies::new([]), false);
    let problems = ProblemWriter::new(&app.public_url, None);
    let guard = GuardLayer::new(server::DEADLINE, move |outcome, context| {
        problems.finish(outcome, context)
    });
    Front::new(
        Calls {
            api: Api::new(app),
            each,
        },
        edge,
        guard,
        Router::new(),
    )
}

struct Calls {
    api: Api,
    each: Each,
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
            _ if path.starts_with(ALONE) => Some((Call::Alone, "/v1/acquire/{name}")),
            _ if path.starts_with(EACH) => Some((Call::Each, "/each/acquire/{name}")),
            _ => None,
        }
    }

    async fn answer(&self, call: Call, request: Request, context: &RequestContext) -> Response {
        let (head, _body) = request.into_parts();
        match call {
            Call::Alone => acquire(&self.api, &head, context).await.into_response(),
            Call::Each => Box::pin(acquire_each(&self.api, &self.each, &head, context))
                .await
                .into_response(),
        }
    }
}

/// `api::v1` for an acquire, up to the question that it asks the engine.
async fn read(
    api: &Api,
    head: &Parts,
    prefix: &str,
    context: &RequestContext,
) -> Result<Acquire, Problem> {
    let caller = authenticate(api, context, &head.headers).await?;
    let name = LockName::parse_segment(head.uri.path().strip_prefix(prefix).unwrap_or_default())?;
    let parameters = Parameters::parse(Operation::Acquire, head.uri.query(), &head.headers)?;
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
        max_live_locks: caller.limits.max_live_locks,
    })
}

async fn acquire(api: &Api, head: &Parts, context: &RequestContext) -> Result<Response, Problem> {
    let question = std::hint::black_box(read(api, head, ALONE, context).await?);
    Ok(v1::granted(&Lease {
        lease_id: question.lease_id,
        fencing_token: 1,
        expires_in_ms: question.lease_ms,
        lease_ms: question.lease_ms,
        acquired_at: chrono::DateTime::UNIX_EPOCH,
        expires_at: chrono::DateTime::UNIX_EPOCH,
    }))
}

/// Connections set up as the engine's; opened when they are first needed, and not looked at before
/// they are used.
struct Each {
    free: Mutex<Vec<PgConnection>>,
    turns: Semaphore,
    database: PgConnectOptions,
}

async fn acquire_each(
    api: &Api,
    each: &Each,
    head: &Parts,
    context: &RequestContext,
) -> Result<Response, Problem> {
    let question = read(api, head, EACH, context).await?;
    let _turn = each.turns.acquire().await.expect("never closed");
    let free = each.free.lock().expect("nobody panics with it").pop();
    let mut connection = match free {
        Some(connection) => connection,
        None => db::connect(&each.database, Purpose::LockEngine).await?,
    };
    let outcome = statements::insert_if_absent(&mut connection, &[&question], latest_at())
        .await?
        .pop()
        .flatten();
    each.free
        .lock()
        .expect("nobody panics with it")
        .push(connection);
    match outcome {
        Some(AcquireOutcome::Granted(lease)) => Ok(v1::granted(&lease)),
        _ => Ok(Response::new("{\"response\": false}".into())),
    }
}

/// The statements may write whenever they arrive.
fn latest_at() -> DateTime<Utc> {
    Utc::now() + TimeDelta::days(1)
}

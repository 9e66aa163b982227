//! The HTTP side alone, for `script/bench`: the service's own listener, layers, authentication (with its cache, told of changes),
//! rates, parsing and rendering, and where the lock engine would be asked, an answer that is made up.
//!
//! It shows what is left for the engine and the database to take, and is no part of the service: a program beside it, which knows
//! no way to reach a lock.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use axum_server::Handle;
use clap::Parser;
use lockable::api::auth::authenticate;
use lockable::api::parameters::{Operation, Parameters};
use lockable::api::problem::{Problem, ProblemWriter};
use lockable::api::rates::RequestRates;
use lockable::api::{Api, v1};
use lockable::app::App;
use lockable::config::Settings;
use lockable::db::Source;
use lockable::locks::{Lease, LockKey, LockName};
use lockable::mail::{MailSettings, Mailer};
use lockable::transport::{EdgeLayer, GuardLayer, RequestContext, TrustedProxies};
use lockable::{jobs, server};
use tokio_util::task::TaskTracker;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = Cli::parse().settings;
    anyhow::ensure!(settings.database.database_url.is_some(), "DATABASE_URL says whose tokens are known: set it");
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
    println!("listening on {address}");
    server::listener::serve(listener, None, Handle::new(), router(app)).await?;
    Ok(())
}

/// As `lockable::server::router` puts it together for the API.
fn router(app: App) -> Router {
    let edge = EdgeLayer::new(TrustedProxies::new([]), false);
    let problems = ProblemWriter::new(&app.public_url, None);
    let guard = GuardLayer::new(server::DEADLINE, move |outcome, context| problems.finish(outcome, context));
    Router::new()
        .route("/v1/acquire/{name}", any(acquire))
        .with_state(Arc::new(Api { app, rates: RequestRates::default() }))
        .layer((edge, guard))
}

/// `v1::call` for an acquire, but for the engine.
async fn acquire(State(api): State<Arc<Api>>, request: Request) -> Result<Response, Problem> {
    let (head, _body) = request.into_parts();
    let context = head.extensions.get::<RequestContext>().expect("the edge layer is around every route");
    let caller = authenticate(&api, context, &head.headers).await?;
    let name = LockName::parse_segment(head.uri.path().strip_prefix("/v1/acquire/").unwrap_or_default())?;
    let parameters = Parameters::parse(Operation::Acquire, head.uri.query(), &head.headers)?;
    let key = LockKey { namespace_id: caller.namespace_id, name };
    let lease_ms = caller.lease_ms(parameters.lease_ms)?;
    std::hint::black_box(&key);
    Ok(v1::granted(&Lease {
        lease_id: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
        fencing_token: 1,
        expires_in_ms: lease_ms,
        lease_ms,
        acquired_at: chrono::DateTime::UNIX_EPOCH,
        expires_at: chrono::DateTime::UNIX_EPOCH,
    }))
}

//! The service: the router and the whole middleware stack in one place, listeners, TLS, shutdown.

mod activity;
pub mod connections;
mod health;
mod init;
pub mod listener;
mod signals;
pub(crate) mod telemetry;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum_server::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::MapRequestLayer;

use crate::api::calls::CALLS;
use crate::api::problem::{Code, ProblemWriter};
use crate::api::{self, Api};
use crate::app::App;
use crate::config::Settings;
use crate::db::{Source, children, migrate};
use crate::locks::MAX_WAIT_MS;
use crate::mail::{MailSettings, Mailer};
use crate::transport::{Edge, Front, GuardLayer, TrustedProxies, note_route};
use crate::{jobs, outages, web};
use connections::{Connections, Limits};
use health::Readiness;
pub(crate) use init::{is_first_process, run_as_first_process};
use listener::Peer;
use signals::StopSignals;
use tls::Tls;

/// The longest wait at the start for a database that does not answer yet.
const WAIT_FOR_DATABASE: Duration = Duration::from_secs(60);

/// The time for the last writes of a stop, after the last answer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// The bounds of connections to the metrics and health, by the operator's own tools.
const METRICS_CONNECTIONS: Limits = Limits {
    total: 64,
    per_network: 64,
};

/// The longest time that a request takes. Longer than the deadline of the lock engine, whose error
/// says more.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// The longest wait of a request for a lock.
const LONGEST_WAIT: Duration = Duration::from_millis(MAX_WAIT_MS as u64);

/// Runs the service until a signal asks it to stop and the requests in flight are answered.
///
/// # Errors
/// If it cannot start, or cannot stop in order.
pub fn serve(settings: Settings) -> anyhow::Result<()> {
    let descriptors = children::raise_descriptor_limit().context("the limit of descriptors")?;
    // Ports and keys may need root's rights, which opening the database gives up for good.
    let listener = listener::bind("--listen", settings.listen)?;
    let metrics_listener = listener::bind("--metrics-listen", settings.metrics_listen)?;
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => Some(Tls::load(cert, key)?),
        _ => None,
    };
    let source = Source::for_service(&settings.database)?;
    if let Some(tls) = &tls
        && !tls.is_readable()
    {
        tracing::warn!(
            "the TLS certificate and key can be read by root only: a renewed one will not be \
             taken up before a restart; make them readable for the user that the service runs as"
        );
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = settings
        .threads
        .map(usize::from)
        .or_else(|| source.is_embedded().then(beside_a_database))
    {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build()?;
    let limits = connection_limits(&settings, descriptors);
    let outcome = runtime.block_on(run(
        settings,
        &source,
        listener,
        metrics_listener,
        tls,
        limits,
    ));
    // Tasks that still run are past their deadline.
    runtime.shutdown_timeout(Duration::from_millis(100));
    source.stop();
    tracing::info!("stopped");
    outcome
}

/// The number of threads beside a PostgreSQL on this machine: one of its single-threaded backends
/// is always busy under load.
fn beside_a_database() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |processors| processors.get() - 1)
        .max(1)
}

/// The bounds of the listener's connections, below the descriptors that everything else needs.
fn connection_limits(settings: &Settings, descriptors: u64) -> Limits {
    const DEFAULT: usize = 24_000;
    // Listeners, pipes, files, and connections that are about to close.
    const OTHERS: usize = 192;
    let to_database = settings.database.database_connections + 8 * u32::from(settings.lanes) + 16;
    let needed = OTHERS + METRICS_CONNECTIONS.total + to_database as usize;
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    // Where even that is short, closing idle ones still gives each a turn.
    let possible = descriptors.saturating_sub(needed).max(descriptors / 4);
    let wanted = settings.connections.map(|wanted| wanted as usize);
    if let Some(wanted) = wanted
        && wanted > possible
    {
        tracing::warn!(
            wanted,
            possible,
            "fewer connections than --connections: the limit of descriptors (ulimit -n, \
             LimitNOFILE) is too low"
        );
    }
    let total = wanted.unwrap_or(DEFAULT).min(possible);
    let per_network = settings
        .connections_per_network
        .map_or((total / 2).max(1), |wanted| wanted as usize);
    Limits { total, per_network }
}

async fn run(
    settings: Settings,
    source: &Source,
    listener: std::net::TcpListener,
    metrics_listener: std::net::TcpListener,
    tls: Option<Tls>,
    limits: Limits,
) -> anyhow::Result<()> {
    let mut signals = StopSignals::catch()?;
    let metrics = telemetry::record()?;
    tokio::select! {
        prepared = prepare_database(&settings, source) => prepared?,
        signal = signals.next() => {
            tracing::info!(signal, "stopping before having started");
            return Ok(());
        }
    };
    let listening = listener.local_addr()?;
    let mail = Mailer::start(&MailSettings {
        smtp_url: settings.smtp_url.clone(),
        from: settings.mail_from.clone(),
        outbox: settings.database.data_dir()?.join("outbox"),
        public_url: settings.public_url(listening),
    })?;
    let drain_timeout = settings.drain_timeout();
    let app = App::new(settings, listening, source.options().clone(), mail);
    if let Some(grace_ms) = app.settings.outage_grace_ms {
        outages::set_grace_ms(&app.db, i32::try_from(grace_ms)?).await?;
    }
    let jobs = TaskTracker::new();
    jobs::spawn(&app, &jobs);
    let front = front(&app);

    let handle = Handle::new();
    let tls_config = tls.as_ref().map(|tls| tls.config.clone());
    if tls_config.is_none() && !listening.ip().is_loopback() {
        tracing::warn!(
            "plain HTTP beyond this machine: tokens and passwords can be read on the way; set \
             --tls-cert and --tls-key, or put a proxy with TLS in front"
        );
    }
    let mut background = tokio::task::JoinSet::new();
    if let Some(tls) = tls {
        background.spawn(tls.keep_fresh());
    }
    background.spawn(telemetry::upkeep(metrics.clone(), app.db.clone()));
    background.spawn(answer_waiters_when_stopping(app.clone()));
    let metrics_address = metrics_listener.local_addr()?;
    // Has health too: on a listener whose connections nobody else can take.
    let operations = telemetry::router(metrics).merge(health_router(&app));
    background.spawn(async move {
        let connections = Connections::new(METRICS_CONNECTIONS, TrustedProxies::default());
        if let Err(error) = listener::serve(
            metrics_listener,
            None,
            connections,
            Handle::new(),
            operations.into_make_service(),
        )
        .await
        {
            tracing::error!(%error, "the metrics listener ended");
        }
    });
    tracing::info!(
        address = %listening,
        metrics = %metrics_address,
        url = %app.public_url,
        connections = limits.total,
        "listening"
    );
    let connections = Connections::new(limits, trusted_proxies(&app));
    let server = tokio::spawn(listener::serve(
        listener,
        tls_config,
        connections,
        handle.clone(),
        front,
    ));

    let outcome =
        drain_on_signal(server, &handle, &mut signals, &app.stopping, drain_timeout).await;
    app.stopping.cancel();
    let flush = async {
        app.locks.shut_down().await;
        app.drained.cancel();
        jobs.close();
        jobs.wait().await;
        app.mail.flush(Duration::from_secs(2)).await;
        background.shutdown().await;
        app.db.close().await;
    };
    // A database that does not answer must not keep the process: every answer is of a committed
    // change.
    tokio::select! {
        () = flush => {}
        () = tokio::time::sleep(FLUSH_TIMEOUT) => {
            tracing::warn!("the database did not take everything in time");
        }
        signal = signals.next() => tracing::warn!(signal, "stopping at once"),
    }
    outcome
}

/// Answers the waiting requests as soon as the node begins to stop: the others are waited for.
async fn answer_waiters_when_stopping(app: App) {
    app.stopping.cancelled().await;
    app.locks.stop_waiting();
}

/// Everything that the service answers. A request passes, from the outside in:
///
/// 1. the edge: request id, client IP, log line, metrics, headers of every answer;
/// 2. for all but the API's calls the router, which notes the route's template in the request's
///    context;
/// 3. the guard of its side of the house: panics, the deadline, and errors as problem documents or
///    pages;
/// 4. the layers that only one side has (sessions).
pub fn front(app: &App) -> Front<Arc<Api>> {
    let edge = Edge::new(trusted_proxies(app), app.public_url.scheme() == "https");
    let problems = ProblemWriter::new(&app.public_url, app.settings.upgrade_url.clone());
    let api_guard = GuardLayer::new(DEADLINE, move |outcome, context| {
        problems.finish(outcome, context)
    });
    let health = health_router(app);
    let api = Arc::new(Api::new(app.clone()));
    let v2 = api::v2::routers(&api);
    let reference = web::ApiReference {
        calls: CALLS
            .map(|call| web::ApiCall {
                path: call.template,
                true_means: call.true_means,
                false_means: call.false_means,
            })
            .into(),
        errors: Code::ALL
            .iter()
            .map(|code| web::ApiError {
                status: code.status().as_u16(),
                code: code.as_str(),
                meaning: code.meaning(),
            })
            .collect(),
        document: serde_json::to_value(&v2.document).expect("the description is JSON"),
    };
    let problems = ProblemWriter::new(&app.public_url, app.settings.upgrade_url.clone());
    let waiting_guard = GuardLayer::new(DEADLINE + LONGEST_WAIT, move |outcome, context| {
        problems.finish(outcome, context)
    });
    let router = Router::new()
        .merge(api::router().layer(api_guard.clone()))
        .merge(api::description(&v2.document))
        .merge(v2.waiting.layer(waiting_guard))
        .merge(v2.others.layer(api_guard.clone()))
        .merge(health)
        .merge(web::router(app, reference))
        .layer(MapRequestLayer::new(note_route));
    Front::new(api, edge, api_guard, router)
}

fn trusted_proxies(app: &App) -> TrustedProxies {
    TrustedProxies::new(app.settings.trusted_proxies.iter().copied())
}

fn health_router(app: &App) -> Router {
    health::router(Readiness {
        db: app.db.clone(),
        stopping: app.stopping.clone(),
    })
}

/// Serves until a signal, then answers the requests in flight. A second signal cuts that short.
async fn drain_on_signal(
    mut server: tokio::task::JoinHandle<std::io::Result<()>>,
    handle: &Handle<Peer>,
    signals: &mut StopSignals,
    stopping: &CancellationToken,
    patience: Duration,
) -> anyhow::Result<()> {
    tokio::select! {
        ended = &mut server => return ended?.context("the listener ended"),
        signal = signals.next() => {
            let in_flight = handle.connection_count();
            tracing::info!(signal, in_flight, "stopping: answering what is in flight");
        }
    }
    stopping.cancel();
    handle.graceful_shutdown(Some(patience));
    tokio::select! {
        ended = &mut server => ended?.context("the listener ended"),
        signal = signals.next() => {
            tracing::warn!(signal, "stopping at once");
            handle.shutdown();
            server.abort();
            Ok(())
        }
    }
}

/// Migrates the database, once it answers.
async fn prepare_database(settings: &Settings, source: &Source) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        match migrate::prepare_with(source.options(), settings.database.unsafe_database).await {
            Ok(()) => return Ok(()),
            Err(error) if may_pass(&error) && started.elapsed() < WAIT_FOR_DATABASE => {
                tracing::warn!(%error, "the database is not there yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// True if waiting may help, because the database starts or fails over. A wrong password or name
/// stays wrong.
fn may_pass(error: &migrate::MigrateError) -> bool {
    match error {
        migrate::MigrateError::Standby => true,
        migrate::MigrateError::Database(sqlx::Error::Io(_)) => true,
        migrate::MigrateError::Database(error) => error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .is_some_and(|code| matches!(&code[..2], "08" | "53" | "57") || code == "25006"),
        _ => false,
    }
}

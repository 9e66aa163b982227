//! The recording of metrics, and their listener for Prometheus.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use sqlx::PgPool;

use super::connections;
use crate::events;
use crate::locks::engine::metric as waiting;
use crate::transport::edge;

/// The gauge of the pool's connections.
const CONNECTIONS: &str = "lockable_database_connections";

/// Lines of the log that nobody read, or that could not be written.
pub(crate) const LOG_LINES_DROPPED: &str = "lockable_log_lines_dropped_total";

/// The interval at which recorded samples are merged, so that they do not pile up if nobody
/// scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The buckets of the number of requests in one statement.
const BATCH_SIZES: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0,
];

/// The buckets of the time that requests waited in line, seconds.
const WAITED_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0,
];

/// Starts recording, once a process.
///
/// # Errors
/// If something else records already.
pub(super) fn record() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let seconds = edge::metric::DURATION_BUCKETS;
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), seconds)
        .and_then(|it| it.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), BATCH_SIZES))
        .and_then(|it| {
            let waited = Matcher::Full(waiting::WAITED_SECONDS.to_owned());
            it.set_buckets_for_metric(waited, WAITED_SECONDS)
        })
        .context("the histograms' buckets")?
        .install_recorder()
        .context("metrics cannot be recorded")?;
    edge::metric::describe();
    metrics::describe_counter!(
        LOG_LINES_DROPPED,
        "Lines of the log that were dropped because it was not read, or not written"
    );
    metrics::counter!(LOG_LINES_DROPPED).increment(0);
    connections::metric::describe();
    waiting::describe();
    events::metric::describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) fn router(handle: PrometheusHandle) -> Router {
    let show = async move || {
        (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            handle.render(),
        )
    };
    Router::new().route("/metrics", get(show))
}

/// Merges recorded samples and measures the pool, without end.
pub(super) async fn upkeep(handle: PrometheusHandle, pool: PgPool) {
    metrics::describe_gauge!(
        CONNECTIONS,
        "Connections to the database for pages, commands and jobs, open and idle"
    );
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
        metrics::gauge!(CONNECTIONS, "state" => "open").set(f64::from(pool.size()));
        metrics::gauge!(CONNECTIONS, "state" => "idle").set(pool.num_idle() as f64);
    }
}

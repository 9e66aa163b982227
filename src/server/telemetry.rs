//! Metrics: recorded by everybody, shown to Prometheus on a listener of their own.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::transport::edge;

/// How often what was recorded is put together, so that it does not pile up where nobody asks.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts recording, once a process.
///
/// # Errors
/// Where something else records already.
pub(super) fn record() -> anyhow::Result<PrometheusHandle> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(edge::metric::DURATION.to_owned()), edge::metric::DURATION_BUCKETS)
        .context("the histogram's buckets")?
        .install_recorder()
        .context("metrics cannot be recorded")?;
    edge::metric::describe();
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// `GET /metrics`, in Prometheus' text format.
pub(super) fn router(handle: PrometheusHandle) -> Router {
    let show = async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render());
    Router::new().route("/metrics", get(show))
}

/// Puts together what was recorded, for as long as it runs.
pub(super) async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

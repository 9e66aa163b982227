//! Logs: on standard error, as text or JSON.

mod line;
mod output;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};
use line::Line;
use output::Output;

pub use output::Flush;

/// Starts logging for this process. What it returns is to be kept until the process ends.
///
/// # Errors
/// A sentence, where the filter cannot be read.
pub fn start(settings: &LogSettings, default_filter: &str) -> Result<Flush, String> {
    let filter = settings.filter.as_deref().unwrap_or(default_filter);
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("--log {filter:?} is no log filter: {error}"))?;
    let output = Output::new(std::io::stderr());
    let end = output.flush_at_end();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(output);
    // A second subscriber can only be a test's: keep that one.
    let _ = match settings.format {
        LogFormat::Text if std::io::stderr().is_terminal() => lines.with_target(false).try_init(),
        LogFormat::Text => lines.with_ansi(false).event_format(Line).try_init(),
        LogFormat::Json => lines
            .with_ansi(false)
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .try_init(),
    };
    Ok(end)
}

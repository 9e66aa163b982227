//! Logs: on standard error, as text or JSON.

mod line;
mod output;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};
use line::Line;
use output::Output;

/// Starts logging for this process.
///
/// # Errors
/// A sentence, where the filter cannot be read.
pub fn start(settings: &LogSettings, default_filter: &str) -> Result<(), String> {
    let filter = settings.filter.as_deref().unwrap_or(default_filter);
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("--log {filter:?} is no log filter: {error}"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Output::new(std::io::stderr()));
    // A second subscriber can only be a test's: keep that one.
    let _ = match settings.format {
        LogFormat::Text if std::io::stderr().is_terminal() => lines.with_target(false).try_init(),
        LogFormat::Text => lines.with_ansi(false).event_format(Line).try_init(),
        LogFormat::Json => {
            lines.with_ansi(false).json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
    Ok(())
}

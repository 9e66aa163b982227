//! Logs: on standard error, as text or JSON.

mod line;
mod output;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSettings};
use crate::server::telemetry;
use line::Line;
use output::Output;

pub use output::Flush;

/// Starts logging for this process. Keep the returned guard until the process ends: dropping it
/// writes the lines that wait.
///
/// # Errors
/// A sentence, where the filter cannot be read.
pub fn start(settings: &LogSettings, default_filter: &str) -> Result<Flush, String> {
    let filter = settings.filter.as_deref().unwrap_or(default_filter);
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| format!("--log {filter:?} is no log filter: {error}"))?;
    let output = Output::new(
        std::io::stderr(),
        || metrics::counter!(telemetry::LOG_LINES_DROPPED).increment(1),
        Box::new(|lines| {
            tracing::warn!(
                lines,
                "lines of this log were dropped: it was not read, or not written"
            );
        }),
    );
    let end = output.flush_at_end();
    // The standard library's hook would wait for the reader of standard error.
    std::panic::set_hook(Box::new(log_panic));
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

fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string);
    // Empty unless RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(place, %backtrace, "panicked: {message}");
    } else {
        tracing::error!(place, "panicked: {message}");
    }
}

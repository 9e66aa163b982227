//! The settings of the log.

use clap::{Args, ValueEnum};

/// The settings of the log: a filter and a format.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub struct LogSettings {
    /// What to log: error, warn, info, debug or trace, also by module (info,lockable::locks=debug)
    /// [default: info for serve, warn for the other commands]
    #[arg(
        long = "log",
        env = "LOCKABLE_LOG",
        value_name = "FILTER",
        global = true
    )]
    pub filter: Option<String>,

    /// How to write the log, on standard error
    #[arg(
        long = "log-format",
        env = "LOCKABLE_LOG_FORMAT",
        value_name = "FORMAT",
        global = true,
        value_enum,
        default_value = "text"
    )]
    pub format: LogFormat,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One readable line an event
    Text,
    /// One JSON object a line
    Json,
}

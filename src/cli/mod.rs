//! The commands. Exit codes: 0 done, 1 it failed (and standard error says why), 2 it was called wrongly; `lockable run`
//! has more.

mod logging;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{LogSettings, Settings};

/// A distributed lock service: flock for programs that share no file system
///
/// `lockable serve` with no settings is a complete service on this machine: it runs a PostgreSQL of its own.
#[derive(Parser, Debug)]
#[command(name = "lockable", version, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    log: LogSettings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the service
    Serve(Box<Settings>),
}

impl Cli {
    /// Runs the command to its end.
    pub fn run(self) -> ExitCode {
        if let Err(error) = logging::start(&self.log) {
            return usage(&error);
        }
        let outcome = match self.command {
            Command::Serve(settings) => match settings.validate() {
                Ok(()) => crate::server::serve(*settings).map(|()| ExitCode::SUCCESS),
                Err(error) => return usage(&error.to_string()),
            },
        };
        outcome.unwrap_or_else(|error| {
            eprintln!("lockable: {error:#}");
            ExitCode::FAILURE
        })
    }
}

fn usage(sentence: &str) -> ExitCode {
    eprintln!("lockable: {sentence}");
    ExitCode::from(2)
}

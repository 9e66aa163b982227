//! The commands. Exit codes: 0 done, 1 failed (standard error says why), 2 called wrongly; the
//! client's commands have more (`client::exit`).

mod admin;
mod backup;
mod client;
mod completions;
pub mod logging;
mod manual;
mod output;
mod runtime;

use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{DatabaseSettings, LogSettings, Settings, SettingsError};
use crate::db::{Source, children, migrate};
use crate::server;

/// A distributed lock service: flock for programs that share no file system
///
/// `lockable serve` with no settings is a complete service on this machine: it runs a PostgreSQL of
/// its own.
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
    /// Bring the database to the schema of this version, as `serve` does when it starts
    Migrate(DatabaseSettings),
    /// Write a backup of the database to a file; the service may run meanwhile
    Backup(backup::BackupArgs),
    /// Replace the contents of the database by a backup's; no node may run meanwhile
    Restore(backup::RestoreArgs),
    /// Manage accounts, tokens and plans
    Admin(Box<admin::AdminArgs>),
    /// Run a command while holding a lock
    Run(client::RunArgs),
    /// Take a lock if it is free, or wait for it
    Acquire(client::AcquireArgs),
    /// Renew the lease on a lock
    Heartbeat(client::HoldArgs),
    /// Give a lock back
    Release(client::RequestArgs),
    /// Show who holds a lock, and who waits for it
    Status(client::StatusArgs),
    /// List the held locks of a namespace
    List(client::ListArgs),
    /// Print what happens to locks, as it happens
    Watch(client::WatchArgs),
    /// End a lease by force
    Break(client::BreakArgs),
    /// Print the script with which a shell completes these commands
    Completions(completions::CompletionsArgs),
    /// Print the manual page of a command
    Man(manual::ManArgs),
    /// The process between `run` and its command; started by `run` only
    #[command(hide = true)]
    Watchdog(client::WatchdogArgs),
}

impl Cli {
    /// Reads the command line and the environment. Ends the process if they are wrong, or ask for
    /// help.
    #[must_use]
    pub fn from_command_line() -> Self {
        let mut command = without_empty_variables(Self::command());
        let matches = command.get_matches_mut();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit())
    }

    /// Runs the command to its end.
    pub fn run(self) -> ExitCode {
        if matches!(self.command, Command::Serve(_)) && server::is_first_process() {
            return server::run_as_first_process();
        }
        if let Err(error) = self.leave_postgres_variables() {
            return usage(&format!("it cannot be started anew: {error}"));
        }
        // Dependencies compile two providers in; this one is used. Fails if a test has installed it
        // already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let default_filter = if matches!(self.command, Command::Serve(_)) {
            "info,sqlx=warn"
        } else {
            "warn"
        };
        let flush_at_end = match logging::start(&self.log, default_filter) {
            Ok(flush) => flush,
            Err(error) => return usage(&error),
        };
        let outcome = match self.command {
            Command::Serve(settings) => settings
                .validate()
                .map_err(Into::into)
                .and_then(|()| server::serve(*settings))
                .map(|()| ExitCode::SUCCESS),
            Command::Migrate(settings) => migrate(&settings).map(|()| ExitCode::SUCCESS),
            Command::Backup(args) => backup::backup(&args).map(|()| ExitCode::SUCCESS),
            Command::Restore(args) => backup::restore(&args).map(|()| ExitCode::SUCCESS),
            Command::Admin(args) => admin::run(*args).map(|()| ExitCode::SUCCESS),
            Command::Run(args) => return run_client(client::run(args)),
            Command::Acquire(args) => return run_client(client::acquire(args)),
            Command::Heartbeat(args) => return run_client(client::heartbeat(args)),
            Command::Release(args) => return run_client(client::release(args)),
            Command::Status(args) => return run_client(client::status(args)),
            Command::List(args) => return run_client(client::list(args)),
            Command::Watch(args) => return run_client(client::watch(args)),
            Command::Break(args) => return run_client(client::break_lock(args)),
            Command::Completions(args) => {
                completions::print(&args, &Self::command()).map(|()| ExitCode::SUCCESS)
            }
            Command::Man(args) => manual::print(&args, Self::command()).map(|()| ExitCode::SUCCESS),
            Command::Watchdog(args) => return run_client(client::watchdog(args)),
        };
        // Before its last word, which is not part of the log.
        drop(flush_at_end);
        match outcome {
            Ok(code) => code,
            Err(error) if error.is::<SettingsError>() => usage(&error.to_string()),
            Err(error) => {
                output::error(format_args!("{error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl Cli {
    /// Commands on the embedded PostgreSQL take nothing from variables that are meant for another.
    fn leave_postgres_variables(&self) -> std::io::Result<()> {
        let database = match &self.command {
            Command::Serve(settings) => &settings.database,
            Command::Migrate(settings) => settings,
            Command::Backup(args) => &args.database,
            Command::Restore(args) => &args.database,
            Command::Admin(args) => &args.database,
            Command::Run(_)
            | Command::Acquire(_)
            | Command::Heartbeat(_)
            | Command::Release(_)
            | Command::Status(_)
            | Command::List(_)
            | Command::Watch(_)
            | Command::Break(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Watchdog(_) => return Ok(()),
        };
        if database.database_url.is_some() {
            return Ok(());
        }
        children::leave_postgres_variables()
    }
}

/// Ignores environment variables that are empty: service managers and compose files set them so
/// when they mean none.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let empty = arg
                .get_env()
                .and_then(std::env::var_os)
                .is_some_and(|value| value.is_empty());
            if empty {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        })
        .mut_subcommands(without_empty_variables)
}

fn usage(sentence: &str) -> ExitCode {
    output::error(sentence);
    ExitCode::from(2)
}

fn migrate(settings: &DatabaseSettings) -> anyhow::Result<()> {
    settings.validate()?;
    let source = Source::for_command(settings)?;
    let outcome = runtime::block_on(migrate::prepare_with(
        source.options(),
        settings.unsafe_database,
    ));
    source.stop();
    Ok(outcome??)
}

/// Runs a command of the client, whose exit code 1 means `false` and nothing else.
fn run_client(work: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let outcome = runtime::block_on(work).map_err(Into::into).flatten();
    outcome.unwrap_or_else(|error: anyhow::Error| {
        output::error(format_args!("{error:#}"));
        ExitCode::from(client::exit::SYSTEM)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_of_the_commands_contradict_nothing() {
        Cli::command().debug_assert();
    }

    /// As a shell reads them, as far as the examples need it: words, double quotes, and the ends of
    /// a command.
    #[test]
    fn every_example_of_the_manual_is_a_command() {
        let mut examples = 0;
        for example in manual::examples(Cli::command()) {
            let words = words(example);
            let parsed = Cli::command().try_get_matches_from(&words);
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            examples += 1;
        }
        assert!(examples > 15, "{examples}");
    }

    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (number, part) in line.split('"').enumerate() {
            if number % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        let end = words
            .iter()
            .position(|word| ["&&", "|", ">", ">>"].contains(&word.as_str()));
        words.truncate(end.unwrap_or(words.len()));
        words
    }
}

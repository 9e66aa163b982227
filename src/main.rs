//! `lockable`: see `lockable --help`.

use std::process::ExitCode;

use clap::Parser;
use lockable::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}

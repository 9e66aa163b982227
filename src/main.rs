//! `lockable`: see `lockable --help`.

use std::process::ExitCode;

use lockable::cli::Cli;

fn main() -> ExitCode {
    Cli::from_command_line().run()
}

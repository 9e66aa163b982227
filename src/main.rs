//! `lockable`: see `lockable --help`.

use std::process::ExitCode;

use lockable::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::from_command_line().run()
}

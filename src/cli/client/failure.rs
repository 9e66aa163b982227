//! Why a command that shows or breaks locks ends without an outcome.

use std::io;
use std::process::ExitCode;

use super::api::RequestError;
use super::commands::exit_code;
use super::exit;
use crate::cli::output;

/// The reason.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the answer could not be written: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// The exit code of a command: its own, or that of the failure, which is said.
    pub(super) fn end(outcome: Result<u8, Self>) -> ExitCode {
        ExitCode::from(outcome.unwrap_or_else(|failure| {
            output::error(&failure);
            match &failure {
                Self::Request(error) => exit_code(error),
                Self::Output(_) => exit::OUTPUT,
            }
        }))
    }
}

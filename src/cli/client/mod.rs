//! The client side: `lockable acquire`, `heartbeat`, `release` and `run`, over version 1 of the
//! API.

mod api;
mod child;
mod commands;
mod duration;
mod run;

use clap::Args;
use url::Url;

pub(super) use commands::{HoldArgs, RequestArgs, acquire, heartbeat, release};
pub(super) use run::{RunArgs, run};

/// Exit codes beyond those of every command: the numbers of sysexits.h where one fits.
pub(super) mod exit {
    /// The service answered `false`.
    pub(in crate::cli) const FALSE: u8 = 1;
    /// The service could not be reached, or could not say.
    pub(in crate::cli) const UNAVAILABLE: u8 = 69;
    /// `run`: somebody else had the lock for as long as was waited.
    pub(in crate::cli) const NOT_GRANTED: u8 = 75;
    /// `run`: the lease was lost while the command ran, and the command was ended.
    pub(in crate::cli) const LEASE_LOST: u8 = 76;
    /// The service refused the request: a bad token, a bad name, or the plan does not allow it.
    pub(in crate::cli) const REFUSED: u8 = 77;
    /// `run`: the command is there but cannot be run.
    pub(in crate::cli) const CANNOT_RUN: u8 = 126;
    /// `run`: there is no such command.
    pub(in crate::cli) const NO_SUCH_COMMAND: u8 = 127;
}

/// Where the service is, and who asks.
#[derive(Args, Clone)]
pub(super) struct Service {
    /// The service, such as https://locks.example.com
    #[arg(
        long,
        env = "LOCKABLE_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: Url,

    /// API token; better set in the environment, because others on the machine can see command
    /// lines
    #[arg(
        long,
        env = "LOCKABLE_AUTH_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    auth_token: String,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

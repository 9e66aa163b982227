//! The options that every command of the client has.

use clap::Args;
use url::Url;

/// The service's URL and the caller's credentials.
#[derive(Args, Clone)]
pub(super) struct Service {
    /// The service, such as https://locks.example.com
    #[arg(
        long,
        env = "LOCKABLE_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(super) url: Url,

    /// API token; better set in the environment, because others on the machine can see command
    /// lines
    #[arg(
        long,
        env = "LOCKABLE_AUTH_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(super) auth_token: String,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("url", &self.url.as_str())
            .finish_non_exhaustive()
    }
}

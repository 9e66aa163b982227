//! The settings of the database: for `serve` and for every command that works on the data.

use std::path::PathBuf;

use clap::Args;
use etcetera::BaseStrategy;

use super::{SecretUrl, SettingsError};

const DATABASE_CONNECTIONS: u32 = 20;

/// The settings of the database.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// PostgreSQL to use, as postgres://user:password@host/database. Unset: Lockable runs a
    /// PostgreSQL of its own in the data directory
    #[arg(
        long,
        env = "DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        global = true
    )]
    pub database_url: Option<SecretUrl>,

    /// Folder of the embedded PostgreSQL and of unsent mail [default: /var/lib/lockable for root,
    /// else the platform's data folder for lockable]
    #[arg(long, env = "LOCKABLE_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,

    /// Connections to PostgreSQL for pages and jobs, at most; the lock engine has a few of its own
    #[arg(
        long,
        env = "LOCKABLE_DATABASE_CONNECTIONS",
        value_name = "N",
        global = true,
        default_value_t = DATABASE_CONNECTIONS,
        value_parser = clap::value_parser!(u32).range(4..=1000)
    )]
    pub database_connections: u32,

    /// Accept a PostgreSQL with fsync or full_page_writes off. A crash of it may then forget locks
    /// that were granted
    #[arg(long, env = "LOCKABLE_UNSAFE_DATABASE", global = true)]
    pub unsafe_database: bool,
}

impl DatabaseSettings {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// If `database_url` is no URL of a PostgreSQL.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if let Some(url) = &self.database_url {
            let expected = "postgres:// (Lockable works on PostgreSQL)";
            url.validate("DATABASE_URL", ["postgres", "postgresql"], expected)?;
        }
        Ok(())
    }

    /// The data directory: the setting, else the platform's place for data.
    ///
    /// # Errors
    /// If it is not set and this user has no home directory.
    pub fn data_dir(&self) -> Result<PathBuf, SettingsError> {
        if let Some(dir) = &self.data_dir {
            return std::path::absolute(dir).map_err(|error| {
                SettingsError::new(format!("--data-dir {}: {error}", dir.display()))
            });
        }
        if nix::unistd::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/lockable"));
        }
        etcetera::base_strategy::choose_native_strategy()
            .map(|places| places.data_dir().join("lockable"))
            .map_err(|_| {
                SettingsError::new(
                    "this user has no home directory: say with --data-dir where the data goes"
                        .to_owned(),
                )
            })
    }
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        Self {
            database_url: None,
            data_dir: None,
            database_connections: DATABASE_CONNECTIONS,
            unsafe_database: false,
        }
    }
}

//! Which database a command works on: the one that `DATABASE_URL` names, or the embedded one.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use super::embedded::{Access, Embedded, EmbeddedError, OwnerError, ProcessKind, settle_in};
use crate::config::{DatabaseSettings, SettingsError};

/// A database to connect to. Where this process runs it, it stops when this is stopped or dropped:
/// keep it.
#[derive(Debug)]
pub struct Source {
    options: PgConnectOptions,
    embedded: Option<Embedded>,
}

/// Why there is no database to connect to.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The settings are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// `DATABASE_URL` cannot be read. It may hold a password, so it is not shown.
    #[error("DATABASE_URL is not a PostgreSQL address: {0}")]
    Url(sqlx::Error),
    /// The embedded cluster does not run.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The process could not become an unprivileged user.
    #[error(transparent)]
    Owner(#[from] OwnerError),
}

impl Source {
    /// For `lockable serve`: as root, the process becomes an unprivileged user here, so bind and
    /// read first.
    ///
    /// # Errors
    /// Sentences that say what to do.
    pub fn for_service(settings: &DatabaseSettings) -> Result<Self, SourceError> {
        if let Some(options) = from_url(settings)? {
            // Unsent mail goes to the data directory.
            if nix::unistd::geteuid().is_root() {
                settle_in(&settings.data_dir()?)?;
            }
            return Ok(Self {
                options,
                embedded: None,
            });
        }
        let embedded = Embedded::start(
            &settings.data_dir()?,
            ProcessKind::Service,
            server_connections(settings),
        )?;
        Ok(Self {
            options: embedded.places().connect_options(),
            embedded: Some(embedded),
        })
    }

    /// For any other command: uses the cluster of a service that runs, else starts it (as root, as
    /// an unprivileged user).
    ///
    /// # Errors
    /// Sentences that say what to do.
    pub fn for_command(settings: &DatabaseSettings) -> Result<Self, SourceError> {
        if let Some(options) = from_url(settings)? {
            return Ok(Self {
                options,
                embedded: None,
            });
        }
        Ok(
            match Embedded::access(
                &settings.data_dir()?,
                ProcessKind::Command,
                server_connections(settings),
            )? {
                Access::Own(embedded) => Self {
                    options: embedded.places().connect_options(),
                    embedded: Some(embedded),
                },
                Access::Running(places) => Self {
                    options: places.connect_options(),
                    embedded: None,
                },
            },
        )
    }

    /// True if its server is the embedded one.
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// How to connect.
    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// True if this process runs the server.
    pub fn is_own(&self) -> bool {
        self.embedded.is_some()
    }

    /// Stops what this process runs. Close the connections first.
    pub fn stop(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop();
        }
    }
}

fn from_url(settings: &DatabaseSettings) -> Result<Option<PgConnectOptions>, SourceError> {
    let Some(url) = &settings.database_url else {
        return Ok(None);
    };
    PgConnectOptions::from_str(url.expose())
        .map(|options| Some(options.application_name("lockable")))
        .map_err(SourceError::Url)
}

/// The connections of the embedded server: the pool twice, so that commands have one too; eight for
/// each of sixteen lanes in a crowd, eight for locks that go alone, and room for a look with psql.
fn server_connections(settings: &DatabaseSettings) -> u32 {
    2 * settings.database_connections + 152
}

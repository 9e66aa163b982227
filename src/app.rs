//! What every handler may use, put together once. Each part can be had for itself; nothing here
//! decides anything.

use std::net::SocketAddr;
use std::sync::Arc;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::accounts::Passwords;
use crate::config::Settings;
use crate::db::{self, Purpose, changes::Changes};
use crate::locks::{Engine, EngineSettings};
use crate::mail::Mailer;
use crate::tokens::Verifier;

/// A running node, as its handlers and jobs see it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
#[derive(Debug)]
pub struct Parts {
    /// The settings that it was started with.
    pub settings: Settings,
    /// What browsers and mail call the service.
    pub public_url: Url,
    /// How to reach the database.
    pub database: PgConnectOptions,
    /// For pages, commands and jobs.
    pub db: PgPool,
    /// The lock engine.
    pub locks: Engine,
    /// Who a token belongs to.
    pub tokens: Verifier,
    /// What the database announces.
    pub changes: Changes,
    /// Passwords.
    pub passwords: Passwords,
    /// Mail.
    pub mail: Mailer,
    /// Cancelled when the node begins to stop: it then answers what it has and accepts nothing new.
    pub stopping: CancellationToken,
    /// Cancelled when everything that the node accepted is answered: until then its jobs go on.
    pub drained: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Puts a node together over a migrated database. Opens no connection yet, starts the engine's
    /// lanes; [`crate::jobs::spawn`] starts the rest.
    pub fn new(
        settings: Settings,
        listening: SocketAddr,
        database: PgConnectOptions,
        mail: Mailer,
    ) -> Self {
        let engine = EngineSettings {
            lanes: settings.lanes.into(),
            largest_batch: settings.largest_batch.into(),
            ..EngineSettings::default()
        };
        let db = db::pool(
            database.clone(),
            Purpose::General,
            settings.database.database_connections,
        );
        let changes = Changes::default();
        Self(Arc::new(Parts {
            public_url: settings.public_url(listening),
            tokens: Verifier::new(db.clone(), changes.clone()),
            locks: Engine::start(&database, engine),
            passwords: Passwords::default(),
            stopping: CancellationToken::new(),
            drained: CancellationToken::new(),
            settings,
            database,
            db,
            changes,
            mail,
        }))
    }
}

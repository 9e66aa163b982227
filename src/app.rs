//! The parts of a running node, for its handlers and jobs.

use std::net::SocketAddr;
use std::sync::Arc;

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::accounts::Passwords;
use crate::config::Settings;
use crate::db::{self, Purpose, changes::Changes};
use crate::events::Hub;
use crate::locks::{Engine, EngineSettings};
use crate::mail::Mailer;
use crate::tokens::{EmailConfirmation, Verifier};

/// A running node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
#[derive(Debug)]
pub struct Parts {
    /// The settings of its start.
    pub settings: Settings,
    /// The URL of the service in browsers and mail.
    pub public_url: Url,
    /// The options of connections to the database.
    pub database: PgConnectOptions,
    /// The connections for pages and jobs.
    pub db: PgPool,
    /// The lock engine.
    pub locks: Engine,
    /// What watches the locks of private namespaces.
    pub events: Hub,
    /// The verifier of tokens.
    pub tokens: Verifier,
    /// The notices of the database.
    pub changes: Changes,
    /// The hashing of passwords.
    pub passwords: Passwords,
    /// The queue of mail.
    pub mail: Mailer,
    /// Cancelled when the node begins to stop: it then answers the requests in flight and accepts
    /// no new ones.
    pub stopping: CancellationToken,
    /// Cancelled when all requests that the node accepted are answered: its jobs run until then.
    pub drained: CancellationToken,
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Whether accounts need a confirmed e-mail address before they create tokens: only where this
    /// node sends e-mail by which they can confirm it.
    pub fn email_confirmation(&self) -> EmailConfirmation {
        if self.mail.is_by_smtp() {
            EmailConfirmation::Required
        } else {
            EmailConfirmation::NotRequired
        }
    }

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
        let stopping = CancellationToken::new();
        let locks = Engine::start(&database, engine);
        Self(Arc::new(Parts {
            public_url: settings.public_url(listening),
            tokens: Verifier::new(db.clone(), changes.clone()),
            events: Hub::new(db.clone(), locks.recorder().clone(), stopping.clone()),
            locks,
            passwords: Passwords::default(),
            stopping,
            drained: CancellationToken::new(),
            settings,
            database,
            db,
            changes,
            mail,
        }))
    }
}

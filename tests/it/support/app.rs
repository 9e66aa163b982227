//! The service as its clients see it: nodes with real listeners over a database of the test's own,
//! accounts, and callers.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum_server::Handle;
use chrono::{DateTime, Utc};
use lockable::accounts::{self, Account, Email, NewAccount};
use lockable::api::Api;
use lockable::app::App;
use lockable::audit::Actor;
use lockable::config::Settings;
use lockable::id::{AccountId, TokenId};
use lockable::mail::{MailSettings, Mailer};
use lockable::secret::Secret;
use lockable::server::connections::{Connections, Limits};
use lockable::server::{self, listener};
use lockable::tokens::{self, EmailConfirmation, NewToken, Scope};
use lockable::transport::{Front, TrustedProxies};
use lockable::{jobs, namespaces};
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::client::{Browser, Client, TokenClient};
use super::database::Database;
use super::proxy::Proxy;

/// More than any test opens.
const CONNECTION_LIMITS: Limits = Limits {
    total: 10_000,
    per_network: 10_000,
};

/// The password of every account that has one.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// A running node, in this process.
#[derive(Debug)]
pub(crate) struct TestApp {
    /// The state of its handlers.
    pub(crate) app: App,
    /// Its database.
    pub(crate) db: Arc<Database>,
    /// The socket address on which it listens.
    pub(crate) address: SocketAddr,
    /// Mail without a mail server lands in `outbox` in here.
    pub(crate) data_dir: Arc<TempDir>,
    pub(super) front: Front<Arc<Api>>,
    settings: Settings,
    server: JoinHandle<()>,
    connections: Handle<listener::Peer>,
}

impl Deref for TestApp {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl TestApp {
    /// A node over a database of its own, with the default settings.
    pub(crate) async fn start() -> TestApp {
        TestApp::start_with(|_| {}).await
    }

    /// As [`TestApp::start`], with settings of the test's.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> TestApp {
        let mut settings = Settings::default();
        change(&mut settings);
        let db = Arc::new(Database::create().await);
        let options = db.options();
        TestApp::node(db, options, settings, Arc::new(TempDir::new().unwrap())).await
    }

    /// A node over a database that is there.
    pub(crate) async fn start_over(db: &Arc<Database>) -> TestApp {
        TestApp::node(
            db.clone(),
            db.options(),
            Settings::default(),
            Arc::new(TempDir::new().unwrap()),
        )
        .await
    }

    /// A node that reaches its database only through a proxy.
    pub(crate) async fn start_through(db: &Arc<Database>, proxy: &Proxy) -> TestApp {
        let data_dir = Arc::new(TempDir::new().unwrap());
        TestApp::node(db.clone(), proxy.options(db), Settings::default(), data_dir).await
    }

    /// Another node of the same service: same database, same settings, another listener.
    pub(crate) async fn another_node(&self) -> TestApp {
        TestApp::node(
            self.db.clone(),
            self.db.options(),
            self.settings.clone(),
            self.data_dir.clone(),
        )
        .await
    }

    async fn node(
        db: Arc<Database>,
        options: PgConnectOptions,
        mut settings: Settings,
        data_dir: Arc<TempDir>,
    ) -> TestApp {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let original = settings.clone();
        settings.listen = address;
        settings.database.data_dir = Some(data_dir.path().to_owned());
        let mail = Mailer::start(&MailSettings {
            smtp_url: settings.smtp_url.clone(),
            from: settings.mail_from.clone(),
            outbox: data_dir.path().join("outbox"),
            public_url: settings.public_url(address),
        });
        let app = App::new(settings, address, options, mail.unwrap());
        jobs::spawn(&app, &TaskTracker::new());
        let connections = Handle::new();
        let front = server::front(&app);
        let serving = listener::serve(
            listener.into_std().unwrap(),
            None,
            Connections::new(CONNECTION_LIMITS, TrustedProxies::default()),
            connections.clone(),
            front.clone(),
        );
        let server = tokio::spawn(async move { serving.await.unwrap() });
        TestApp {
            app,
            db,
            address,
            data_dir,
            front,
            settings: original,
            server,
            connections,
        }
    }

    /// Its URL, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends the node as a crash would, as seen from outside: it answers no request and does no jobs
    /// any more.
    pub(crate) fn kill(&self) {
        self.connections.shutdown();
        self.server.abort();
        self.app.stopping.cancel();
        self.app.drained.cancel();
    }

    /// A client without a token.
    pub(crate) fn anonymous(&self) -> Client {
        Client::new(self.url())
    }

    /// A client with a token, or with another string in its place.
    pub(crate) fn token(&self, token: &Secret) -> TokenClient {
        TokenClient::new(self.anonymous(), token.expose().to_owned())
    }

    /// A browser: keeps cookies, follows nothing by itself.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.anonymous())
    }

    /// A new account on a plan, with a confirmed address and without a password (hashing one takes
    /// its time).
    pub(crate) async fn account(&self, plan: &str) -> TestAccount {
        self.new_account(plan, false, false).await
    }

    /// A new account on a plan that can sign in with [`PASSWORD`].
    pub(crate) async fn account_with_password(&self, plan: &str) -> TestAccount {
        self.new_account(plan, false, true).await
    }

    /// A new administrator, who can sign in with [`PASSWORD`].
    pub(crate) async fn administrator(&self) -> TestAccount {
        self.new_account("business", true, true).await
    }

    async fn new_account(&self, plan: &str, is_admin: bool, with_password: bool) -> TestAccount {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let email: Email = format!("{plan}-{number}@example.com").parse().unwrap();
        let password = if with_password {
            Some(
                self.app
                    .passwords
                    .hash_new(&Secret::new(PASSWORD), &email)
                    .await
                    .unwrap(),
            )
        } else {
            None
        };
        let new = NewAccount {
            email: &email,
            password,
            plan,
            is_admin,
            email_verified: true,
        };
        let account_id = accounts::create(&self.app.db, new, None).await.unwrap();
        TestAccount {
            app: self.app.clone(),
            id: account_id,
            email: email.as_str().to_owned(),
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An account of a test's.
#[derive(Debug, Clone)]
pub(crate) struct TestAccount {
    app: App,
    pub(crate) id: AccountId,
    pub(crate) email: String,
}

impl TestAccount {
    /// Its row, as it is now.
    pub(crate) async fn row(&self) -> Account {
        accounts::find(&self.app.db, self.id).await.unwrap()
    }

    /// A new API token for the public namespace.
    pub(crate) async fn token(&self) -> Secret {
        self.token_for(namespaces::PUBLIC).await
    }

    /// A new API token for one of its namespaces.
    pub(crate) async fn token_for(&self, namespace: &str) -> Secret {
        self.token_with(namespace, Scope::Locks, None).await.1
    }

    /// A new API token.
    pub(crate) async fn token_with(
        &self,
        namespace: &str,
        scope: Scope,
        expires_at: Option<DateTime<Utc>>,
    ) -> (TokenId, Secret) {
        let new = NewToken {
            label: "test",
            namespace,
            scope,
            expires_at,
        };
        tokens::create(
            &self.app.db,
            &Actor::command("test"),
            &self.row().await,
            EmailConfirmation::NotRequired,
            &new,
        )
        .await
        .unwrap()
    }

    /// Revokes one of its tokens.
    pub(crate) async fn revoke(&self, token_id: TokenId) {
        tokens::revoke(&self.app.db, &Actor::command("test"), self.id, token_id)
            .await
            .unwrap();
    }

    /// A new private namespace.
    pub(crate) async fn namespace(&self, name: &str) {
        let (actor, row) = (Actor::command("test"), self.row().await);
        namespaces::create(&self.app.db, &actor, &row, name, None)
            .await
            .unwrap();
    }

    /// A new private namespace, and a token for it.
    pub(crate) async fn private(&self, name: &str) -> Secret {
        self.namespace(name).await;
        self.token_for(name).await
    }
}

//! A database for each test, made from a migrated template.

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};
use tokio::sync::OnceCell;

use super::cluster::Cluster;

const TEMPLATE: &str = "lockable_template";

/// A migrated database that belongs to one test. Dropped with it.
#[derive(Debug)]
pub(crate) struct Database {
    /// A few sessions for the test's own checks.
    pub(crate) pool: PgPool,
    /// Its name in its cluster.
    pub(crate) name: String,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Shared(&'static Cluster),
    Own(Arc<Cluster>),
}

impl Database {
    /// A copy of the migrated template, in the cluster that all tests share.
    pub(crate) async fn create() -> Database {
        static TEMPLATE_MADE: OnceCell<()> = OnceCell::const_new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Starting it blocks the thread, for about a second and once.
        let cluster = tokio::task::spawn_blocking(Cluster::shared).await.unwrap();
        TEMPLATE_MADE
            .get_or_init(|| create_migrated(cluster, TEMPLATE))
            .await;
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        execute(
            cluster,
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"),
        )
        .await;
        Database {
            pool: checks(cluster.options(&name)),
            name,
            home: Home::Shared(cluster),
        }
    }

    /// An unmigrated one in the cluster that all tests share.
    pub(crate) async fn create_empty() -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let cluster = tokio::task::spawn_blocking(Cluster::shared).await.unwrap();
        let name = format!("empty_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        execute(cluster, "postgres", &format!("CREATE DATABASE {name}")).await;
        Database {
            pool: checks(cluster.options(&name)),
            name,
            home: Home::Shared(cluster),
        }
    }

    /// A migrated one in a cluster of the test's own, which it may stop, kill and freeze.
    pub(crate) async fn create_in(cluster: &Arc<Cluster>) -> Database {
        let name = "lockable";
        create_migrated(cluster, name).await;
        Database::existing_in(cluster, name)
    }

    /// One that is there already, in a cluster of the test's own: after a restore, or in a physical
    /// copy.
    pub(crate) fn existing_in(cluster: &Arc<Cluster>, name: &str) -> Database {
        Database {
            pool: checks(cluster.options(name)),
            name: name.to_owned(),
            home: Home::Own(cluster.clone()),
        }
    }

    /// The cluster that it is in.
    pub(crate) fn cluster(&self) -> &Cluster {
        match &self.home {
            Home::Shared(cluster) => cluster,
            Home::Own(cluster) => cluster,
        }
    }

    /// The options of connections to it, as superuser.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.cluster().options(&self.name)
    }

    /// The same as a URL, for `DATABASE_URL`.
    pub(crate) fn url(&self) -> String {
        self.cluster().url(&self.name)
    }

    /// A session of its own.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options()).await.unwrap()
    }

    /// Runs statements that take no parameters.
    pub(crate) async fn execute(&self, sql: &str) {
        self.pool
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap();
    }

    /// The single value of a query without parameters.
    pub(crate) async fn value<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }
}

/// With this variable set, the database of a test that fails stays until Enter is pressed.
const KEEP: &str = "LOCKABLE_TEST_KEEP";

impl Drop for Database {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os(KEEP).is_some() {
            // Not by a macro: the test's output is captured.
            let command = format!(
                "{} '{}'",
                super::cluster::program("psql").display(),
                self.url()
            );
            writeln!(
                std::io::stderr(),
                "\nThe test fails. Its database: {command}\nEnter ends it."
            )
            .ok();
            std::io::stdin().lines().next();
        }
        if let Home::Shared(_) = self.home {
            janitor().send(std::mem::take(&mut self.name)).ok();
        }
    }
}

/// Lazily connected, so that it does not hold sessions that the test does not use.
fn checks(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(4)
        .min_connections(0)
        .connect_lazy_with(options)
}

async fn create_migrated(cluster: &Cluster, name: &str) {
    execute(cluster, "postgres", &format!("CREATE DATABASE {name}")).await;
    lockable::db::migrate::prepare_with(&cluster.options(name), true)
        .await
        .unwrap();
}

async fn execute(cluster: &Cluster, database: &str, sql: &str) {
    let mut connection = PgConnection::connect_with(&cluster.options(database))
        .await
        .unwrap();
    connection
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap();
    connection.close().await.unwrap();
}

/// Drops databases behind the tests' backs: a destructor cannot wait for it, and the test's runtime
/// is about to end.
fn janitor() -> &'static mpsc::Sender<String> {
    static JANITOR: OnceLock<mpsc::Sender<String>> = OnceLock::new();
    JANITOR.get_or_init(|| {
        let (sender, names) = mpsc::channel::<String>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            for name in names {
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                runtime.block_on(execute(Cluster::shared(), "postgres", &drop));
            }
        });
        sender
    })
}

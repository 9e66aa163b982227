//! What every test stands on. A test:
//!
//! ```ignore
//! use crate::support::prelude::*;
//!
//! #[tokio::test(flavor = "multi_thread")]
//! async fn a_lock_is_exclusive() {
//!     let db = Database::create().await;            // its own database, migrated, dropped afterwards
//!     let mut connection = db.connect().await;      // a plain session on it, for checks
//!     eventually("the row is there", async || sqlx::query("SELECT 1").fetch_optional(&db.pool).await.unwrap()).await;
//! }
//! ```
//!
//! Rules: never sleep "long enough" (poll with [`wait::eventually`]), never share a database, never assert on speed.
//! [`cluster::Cluster::durable`] starts a PostgreSQL of the test's own that may be stopped, killed, frozen and started
//! again; [`proxy::Proxy`] stands between the service and PostgreSQL and loses, delays or cuts what passes.

pub(crate) mod cluster;
pub(crate) mod database;
pub(crate) mod history;
pub(crate) mod proxy;
mod self_test;
pub(crate) mod wait;

/// What nearly every test wants in scope.
pub(crate) mod prelude {
    pub(crate) use super::cluster::Cluster;
    pub(crate) use super::database::Database;
    pub(crate) use super::proxy::Proxy;
    pub(crate) use super::wait::eventually;
}

//! The tools of all tests. A test:
//!
//! ```ignore
//! use crate::support::prelude::*;
//!
//! #[tokio::test(flavor = "multi_thread")]
//! async fn a_lock_is_exclusive() {
//!     // A node with a real listener, over a database of its own.
//!     let app = TestApp::start().await;
//!     // Made through the nouns, not through pages.
//!     let account = app.account("hobbyist").await;
//!     let token = account.token().await;
//!     assert!(app.token(&token).acquire("deploy").await.verdict());
//!     // Another node on the same database.
//!     let other = app.another_node().await;
//!     assert!(!other.token(&token).acquire("deploy").await.verdict());
//!     assert_eq!(app.db.value::<i64>("SELECT count(*) FROM locks").await, 1);
//!     let used_at = async || app.db.value::<Option<DateTime<Utc>>>("SELECT …").await;
//!     eventually("its use is noted", used_at).await;
//! }
//! ```
//!
//! A test chooses how much of the service it needs:
//!
//! - [`node::Node`]: the lock engine over a database, without HTTP.
//! - [`app::TestApp`]: a node in the test's process. `app.token(&secret)`, `app.anonymous()` and
//!   `app.browser()` are its clients over the network; [`direct`] sends requests as they are.
//! - [`process::Process`]: `lockable serve` in a process of its own; [`process::lockable`] is the
//!   binary with any command.
//! - [`database::Database`] alone, for tests below all of that.
//!
//! Rules: never sleep "long enough" (poll with [`wait::eventually`]), never share a database, never
//! assert on speed. [`cluster::Cluster::durable`] starts a PostgreSQL of the test's own that may be
//! stopped, killed, frozen and started again; [`proxy::Proxy`] stands between the service and
//! PostgreSQL and loses, delays or cuts what passes.

pub(crate) mod answer;
pub(crate) mod app;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod database;
pub(crate) mod direct;
pub(crate) mod history;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod wait;

/// The names that nearly every test needs.
pub(crate) mod prelude {
    pub(crate) use super::app::TestApp;
    pub(crate) use super::cluster::Cluster;
    pub(crate) use super::database::Database;
    pub(crate) use super::process::Process;
    pub(crate) use super::proxy::Proxy;
    pub(crate) use super::wait::eventually;
}

//! What the API and the pages share of HTTP, and nothing of either: who asks ([`client_addr`]),
//! under which request id ([`request_id`]), what one request is as it passes through ([`context`]),
//! and the two layers of the middleware stack that every request runs through, [`edge`] (id, log
//! line, metrics, security headers) and [`guard`] (panics, deadline, last touch on the answer), and
//! [`front`], which answers some calls without a router. They are put together in `server`.
//!
//! `api` and `web` import this; this imports neither, nor any noun but the ids.

pub mod client_addr;
pub mod context;
pub mod edge;
pub mod front;
pub mod guard;
pub mod request_id;

pub use client_addr::TrustedProxies;
pub use context::RequestContext;
pub use edge::{EdgeLayer, Route};
pub use front::{DirectCalls, Front};
pub use guard::{GuardLayer, Outcome};
pub use request_id::RequestId;

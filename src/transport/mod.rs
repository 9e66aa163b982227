//! The part of HTTP that the API and the pages share, and nothing of either: the client's IP
//! ([`client_ip`]), the request's id ([`request_id`]) and context ([`context`]), and the way of
//! every request: [`front`] (the service at a connection), [`edge`] (log line, metrics, common
//! headers) and [`guard`] (panics, deadline, last touch on the answer). They are put together in
//! `server`.
//!
//! `api` and `web` import this; this imports neither, and no noun.

pub mod client_ip;
pub mod context;
pub mod edge;
pub mod front;
pub mod guard;
pub mod request_id;

pub use client_ip::TrustedProxies;
pub use context::{RequestContext, note_route};
pub use edge::Edge;
pub use front::{DirectCalls, Front};
pub use guard::{GuardLayer, HandlerResult};
pub use request_id::RequestId;

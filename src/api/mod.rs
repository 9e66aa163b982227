//! The HTTP API: adapters over the nouns, nothing else. [`auth`] finds out whose request it is and
//! whether there are too many of them, [`v1`] is the contract of version 1, [`pressure`] says when
//! not to refuse at once, [`problem`] turns everything that goes wrong into a document.

pub mod auth;
pub mod credentials;
pub mod parameters;
pub mod pressure;
pub mod problem;
pub mod rates;
pub mod v1;

use axum::Router;
use axum::http::Uri;
use axum::routing::any;

use crate::app::App;
use pressure::Pressure;
use problem::{Code, Problem};
use rates::RequestRates;

/// What the API's handlers share.
#[derive(Debug)]
pub struct Api {
    /// The house.
    pub app: App,
    /// Requests a second of every account on this node.
    pub rates: RequestRates,
    /// How long refusals for too much load are held back.
    pub pressure: Pressure,
}

impl Api {
    /// Nobody has asked for anything yet. On a tokio runtime.
    pub fn new(app: App) -> Self {
        let pressure = Pressure::watch(app.drained.clone());
        Self {
            app,
            rates: RequestRates::default(),
            pressure,
        }
    }
}

/// Addresses under the API's that are none of its calls: those are answered without a router
/// ([`v1`]). Needs a `transport::GuardLayer` with
/// [`problem::ProblemWriter::finish`] around it.
pub fn router() -> Router {
    Router::new()
        .route("/v1", any(no_such_address))
        .route("/v1/", any(no_such_address))
        .route("/v1/{*rest}", any(no_such_address))
        .route("/v2", any(no_such_address))
        .route("/v2/", any(no_such_address))
        .route("/v2/{*rest}", any(no_such_address))
}

/// An address under the API's that is none, with a hint where it nearly is one.
async fn no_such_address(uri: Uri) -> Problem {
    let path = uri.path();
    for call in ["/v1/acquire", "/v1/heartbeat", "/v1/release"] {
        match path.strip_prefix(call) {
            Some("" | "/") => {
                let detail = format!(
                    "The lock's name is missing: send {call}/NAME, with the name percent-encoded."
                );
                return Problem::new(Code::InvalidName, detail);
            }
            Some(rest) if rest.starts_with('/') => {
                let detail = "The lock's name is one segment of the path: write a slash in it as %2F, and leave out one at the end.";
                return Problem::new(Code::InvalidName, detail);
            }
            _ => {}
        }
    }
    let detail = "There is no such address. The API has /v1/acquire/NAME, /v1/heartbeat/NAME and /v1/release/NAME.";
    Problem::new(Code::NotFound, detail)
}

//! The HTTP API: adapters over the nouns, nothing else. [`calls`] is the table of version 1's
//! calls, [`v1`] its contract, [`v2`] the API with leases as objects. [`auth`] verifies credentials
//! and counts requests, [`pressure`] holds rejections back, [`problem`] turns errors into
//! documents.

pub mod auth;
mod bystanders;
pub mod calls;
pub mod credentials;
pub mod parameters;
pub mod pressure;
pub mod problem;
pub mod rates;
pub mod v1;
pub mod v2;

use std::sync::Arc;

use axum::Router;
use axum::http::{Uri, header};
use axum::routing::{any, get};
use utoipa::openapi::OpenApi;

use crate::app::App;
use calls::CALLS;
use pressure::Pressure;
use problem::{Code, Problem};
use rates::RequestRates;

/// The state that the API's handlers share.
#[derive(Debug)]
pub struct Api {
    /// The node's parts.
    pub app: App,
    /// The request rates of all accounts on this node.
    pub rates: RequestRates,
    /// The time for which rejections for too much load are held back.
    pub pressure: Pressure,
}

impl Api {
    /// Starts to watch the pressure; needs a running tokio.
    pub fn new(app: App) -> Self {
        let pressure = Pressure::watch(app.drained.clone());
        Self {
            app,
            rates: RequestRates::default(),
            pressure,
        }
    }
}

/// The URLs under the API's that are none of its calls: calls are answered without a router
/// ([`v1`]). Needs a `transport::GuardLayer` with
/// [`problem::ProblemWriter::finish`] around it.
pub fn router() -> Router {
    Router::new()
        .route("/v1", any(no_such_call))
        .route("/v1/", any(no_such_call))
        .route("/v1/{*rest}", any(no_such_call))
        .route("/v2", any(no_such_call))
        .route("/v2/", any(no_such_call))
        .route("/v2/{*rest}", any(no_such_call))
}

/// `GET /openapi.json`: the description of the API, for programs.
///
/// # Panics
/// If the description is no JSON, which it always is.
pub fn description(document: &OpenApi) -> Router {
    let text = document.to_json().expect("the description is JSON");
    let text: Arc<str> = text.into();
    let get_text = async move || {
        (
            [(header::CONTENT_TYPE, "application/json")],
            text.to_string(),
        )
    };
    Router::new().route("/openapi.json", get(get_text))
}

/// Answers a URL under the API's that is no call, with a hint if it nearly is one.
async fn no_such_call(uri: Uri) -> Problem {
    let path = uri.path();
    for call in CALLS {
        let call = call.prefix().trim_end_matches('/');
        match path.strip_prefix(call) {
            Some("" | "/") => {
                let detail = format!(
                    "The lock's name is missing: send {call}/NAME, with the name percent-encoded."
                );
                return Problem::new(Code::InvalidName, detail);
            }
            Some(rest) if rest.starts_with('/') => {
                let detail = "The lock's name is one segment of the path: write a slash in it as \
                              %2F, and leave out one at the end.";
                return Problem::new(Code::InvalidName, detail);
            }
            _ => {}
        }
    }
    let [first @ .., last] = CALLS.map(|call| format!("{}NAME", call.prefix()));
    let detail = format!(
        "There is no such address. The API has {} and {last}.",
        first.join(", ")
    );
    Problem::new(Code::NotFound, detail)
}

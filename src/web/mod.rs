//! The browser's side: pages, forms, the session. A thin adapter over the nouns.
//!
//! A page is a struct with a template; a handler is a parse, one call and a render. What several
//! pages need: [`ui`]; [`session`] (who is signed in), [`error`] (what goes wrong).

mod account;
mod admin;
mod assets;
mod emails;
mod error;
mod form_dedup;
mod headers;
mod public;
mod session;
mod sign_in;
mod throttle;
mod ui;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::routing::{get, post};

use self::account::{locks, namespaces, overview, security, tokens};
use self::public::{docs, home};
use self::sign_in::{log_in, recovery};

use self::error::WebError;
use self::form_dedup::Once;
pub use self::public::docs::{ApiCall, ApiError, ApiReference};
use self::throttle::Throttles;
use crate::app::App;
use crate::transport::GuardLayer;

/// The largest form, bytes.
const FORM_BYTES: usize = 32 * 1024;
/// How long a page may take. Hashing passwords waits for its turn.
const DEADLINE: Duration = Duration::from_secs(20);

/// What handlers of pages use.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    pub(crate) app: App,
    pub(crate) throttles: Arc<Throttles>,
    pub(crate) once: Once,
    pub(crate) api: Arc<ApiReference>,
}

impl FromRef<Web> for App {
    fn from_ref(web: &Web) -> Self {
        web.app.clone()
    }
}

/// The pages and what they load. `api`: what the documentation lists.
pub fn router(app: &App, api: ApiReference) -> Router {
    let web = Web {
        app: app.clone(),
        throttles: Arc::new(Throttles::default()),
        once: Once::default(),
        api: Arc::new(api),
    };
    let pages = Router::new()
        .route("/", get(home::show))
        .route("/docs", get(docs::show))
        .route("/signup", get(log_in::signup_form).post(log_in::signup))
        .route("/login", get(log_in::login_form).post(log_in::login))
        .route("/logout", post(log_in::logout))
        .route(
            emails::FORGOT,
            get(recovery::forgot_form).post(recovery::forgot),
        )
        .route(
            emails::RESET,
            get(recovery::reset_form).post(recovery::reset),
        )
        .route(
            emails::VERIFY,
            get(recovery::verify_form).post(recovery::verify),
        )
        .route(
            emails::CHANGE_EMAIL,
            get(recovery::change_email_form).post(recovery::change_email),
        )
        .route("/account", get(overview::show))
        .route("/account/lease", post(overview::set_lease))
        .route("/account/verify", post(overview::send_verification_again))
        .route("/account/tokens", post(tokens::create))
        .route("/account/tokens/{token_id}", get(tokens::show))
        .route("/account/tokens/{token_id}/rotate", post(tokens::rotate))
        .route("/account/tokens/{token_id}/revoke", post(tokens::revoke))
        .route("/account/security", get(security::show))
        .route("/account/password", post(security::change_password))
        .route("/account/email", post(security::change_email))
        .route(
            "/account/sessions/end-others",
            post(security::end_other_sessions),
        )
        .route(
            "/account/sessions/{session}/end",
            post(security::end_session),
        )
        .route(
            "/account/delete",
            get(security::delete_form).post(security::delete),
        )
        .route(
            "/account/namespaces",
            get(namespaces::list).post(namespaces::create),
        )
        .route("/account/namespaces/{name}", get(namespaces::show))
        .route(
            "/account/namespaces/{name}/lease",
            post(namespaces::set_lease),
        )
        .route(
            "/account/namespaces/{name}/delete",
            post(namespaces::delete),
        )
        .route("/account/locks", get(locks::list))
        .route(
            "/account/locks/break",
            get(locks::break_form).post(locks::break_lock),
        )
        .merge(admin::routes())
        .layer(DefaultBodyLimit::max(FORM_BYTES))
        .layer(session::layer(app.db.clone(), &app.public_url))
        .layer(headers::same_site(&app.public_url))
        .with_state(web);
    Router::new()
        .route("/assets/{version}/{name}", get(assets::get))
        .route("/favicon.ico", get(assets::icon))
        .merge(pages)
        .fallback(async || WebError::NotFound)
        .layer(GuardLayer::new(DEADLINE, error::finish))
        .layer(axum::middleware::from_fn(headers::keep_links))
}

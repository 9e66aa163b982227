//! The browser's side: pages, forms, the session. A thin adapter over the nouns.
//!
//! A page is a struct with a template; a handler is a parse, one call and a render. What several
//! pages need: [`page`] (what stands around the content), [`fields`] (forms), [`session`] (who is
//! signed in), [`error`] (what goes wrong), [`when`] and [`snippet`] (instants and code).

mod account;
mod admin;
mod assets;
mod browser;
mod docs;
pub mod error;
pub mod fields;
mod home;
mod letters;
mod locks;
mod namespaces;
mod once;
pub mod page;
mod recovery;
mod security;
mod security_page;
pub mod session;
mod sign;
pub mod snippet;
mod throttle;
mod tokens;
pub mod when;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRef};
use axum::routing::{get, post};

pub use self::docs::{ApiCall, ApiError, ApiReference};
use self::error::WebError;
use self::once::Once;
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
        .route("/signup", get(sign::signup_form).post(sign::signup))
        .route("/login", get(sign::login_form).post(sign::login))
        .route("/logout", post(sign::logout))
        .route(
            letters::FORGOT,
            get(recovery::forgot_form).post(recovery::forgot),
        )
        .route(
            letters::RESET,
            get(recovery::reset_form).post(recovery::reset),
        )
        .route(
            letters::VERIFY,
            get(recovery::verify_form).post(recovery::verify),
        )
        .route(
            letters::CHANGE_EMAIL,
            get(recovery::change_email_form).post(recovery::change_email),
        )
        .route("/account", get(account::show))
        .route("/account/lease", post(account::set_lease))
        .route("/account/verify", post(account::send_verification_again))
        .route("/account/tokens", post(tokens::create))
        .route("/account/tokens/{token_id}", get(tokens::show))
        .route("/account/tokens/{token_id}/rotate", post(tokens::rotate))
        .route("/account/tokens/{token_id}/revoke", post(tokens::revoke))
        .route("/account/security", get(security_page::show))
        .route("/account/password", post(security_page::change_password))
        .route("/account/email", post(security_page::change_email))
        .route(
            "/account/sessions/end-others",
            post(security_page::end_other_sessions),
        )
        .route(
            "/account/sessions/{session}/end",
            post(security_page::end_session),
        )
        .route(
            "/account/delete",
            get(security_page::delete_form).post(security_page::delete),
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
        .layer(security::same_site(&app.public_url))
        .with_state(web);
    Router::new()
        .route("/assets/{version}/{name}", get(assets::get))
        .route("/favicon.ico", get(assets::icon))
        .merge(pages)
        .fallback(async || WebError::NotFound)
        .layer(GuardLayer::new(DEADLINE, error::finish))
        .layer(axum::middleware::from_fn(security::keep_links))
}

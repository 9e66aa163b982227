//! The pages: a thin adapter over the nouns.
//!
//! This file is the URL map. A page is a struct with a template in `templates/`; its handler parses
//! the request, calls a noun and renders. `ui` has the parts that pages are made of: the frame
//! around the content, forms, lists. `session` has the signed-in account, `error` everything
//! that goes wrong outside a form.

mod account;
mod admin;
mod assets;
mod csrf;
mod emails;
mod error;
mod error_page;
mod form_dedup;
mod headers;
mod public;
mod session;
mod sign_in;
mod state;
mod throttle;
mod ui;

use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::{get, post};

use self::error::WebError;
use self::state::Web;
use crate::app::App;
use crate::transport::GuardLayer;

pub use self::state::{ApiCall, ApiError, ApiReference};

/// The largest form, bytes.
const MAX_FORM_BYTES: usize = 32 * 1024;
/// The time that a page may take. Hashing a password waits for its turn.
const DEADLINE: Duration = Duration::from_secs(20);

/// The pages and their assets. The documentation lists the facts of `api`.
pub fn router(app: &App, api: ApiReference) -> Router {
    let pages = public_pages(&api)
        .merge(sign_in_pages())
        .merge(account_pages())
        .merge(admin_pages())
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(session::layer(app.db.clone(), &app.public_url))
        .layer(csrf::layer(&app.public_url))
        .with_state(Web::new(app, api));
    Router::new()
        .route("/assets/{version}/{name}", get(assets::get))
        .route("/favicon.ico", get(assets::icon))
        .merge(pages)
        .fallback(async || WebError::NotFound)
        .layer(GuardLayer::new(DEADLINE, error_page::finish))
        .layer(middleware::from_fn(headers::keep_links_out_of_referrers))
}

fn public_pages(api: &ApiReference) -> Router<Web> {
    use self::public::{api_reference, docs, home};
    Router::new()
        .route("/", get(home::show))
        .route("/docs", get(docs::show))
        .route("/docs/api", api_reference::route(&api.document))
}

fn sign_in_pages() -> Router<Web> {
    use self::sign_in::{email_confirmation, log_in, recovery, sign_up};
    Router::new()
        .route("/signup", get(sign_up::show).post(sign_up::submit))
        .route("/login", get(log_in::show).post(log_in::submit))
        .route("/logout", post(log_in::log_out))
        .route(
            emails::FORGOT,
            get(recovery::show_forgot).post(recovery::forgot),
        )
        .route(
            emails::RESET,
            get(recovery::show_reset).post(recovery::reset),
        )
        .route(
            emails::VERIFY,
            get(email_confirmation::show_verify).post(email_confirmation::verify),
        )
        .route(
            emails::CHANGE_EMAIL,
            get(email_confirmation::show_change_email).post(email_confirmation::change_email),
        )
}

fn account_pages() -> Router<Web> {
    use self::account::{deletion, locks, namespaces, overview, security, tokens};
    Router::new()
        .route("/account", get(overview::show))
        .route("/account/lease", post(overview::set_lease))
        .route("/account/verify", post(overview::send_verification_again))
        .route("/account/tokens", post(tokens::create))
        .route("/account/tokens/{token_id}", get(tokens::show))
        .route("/account/tokens/{token_id}/rotate", post(tokens::rotate))
        .route("/account/tokens/{token_id}/revoke", post(tokens::revoke))
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
            get(locks::show_break).post(locks::break_lock),
        )
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
            get(deletion::show).post(deletion::delete),
        )
}

fn admin_pages() -> Router<Web> {
    use self::admin::{accounts, audit, locks, plans};
    Router::new()
        .route("/admin/accounts", get(accounts::list))
        .route("/admin/accounts/{account_id}", get(accounts::show))
        .route(
            "/admin/accounts/{account_id}/plan",
            post(accounts::set_plan),
        )
        .route(
            "/admin/accounts/{account_id}/suspend",
            post(accounts::suspend),
        )
        .route(
            "/admin/accounts/{account_id}/restore",
            post(accounts::restore),
        )
        .route(
            "/admin/accounts/{account_id}/promote",
            post(accounts::promote),
        )
        .route("/admin/plans", get(plans::list).post(plans::create))
        .route("/admin/plans/new", get(plans::show_new))
        .route(
            "/admin/plans/{code}/edit",
            get(plans::show).post(plans::edit),
        )
        .route("/admin/locks", get(locks::show).post(locks::break_lock))
        .route("/admin/audit", get(audit::list))
}

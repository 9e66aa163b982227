//! `/admin`: accounts, plans, locks and the audit log, for administrators. For everybody else there
//! is no such page.

mod accounts;
mod audit;
mod locks;
mod plans;

use axum::Router;
use axum::routing::{get, post};

use super::Web;

/// The administrator's pages.
pub(super) fn routes() -> Router<Web> {
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
        .route("/admin/plans/new", get(plans::new_form))
        .route(
            "/admin/plans/{code}/edit",
            get(plans::edit_form).post(plans::edit),
        )
        .route("/admin/locks", get(locks::form).post(locks::break_lock))
        .route("/admin/audit", get(audit::list))
}

/// A text that somebody searches for; none where it is empty. The database takes no NUL.
fn searched(text: &str) -> Option<String> {
    let text = text.replace('\0', "");
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

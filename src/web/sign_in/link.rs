//! The links in e-mails: the secret that a link carries, and the pages that all links share. A link
//! opens a page with a button; only pressing it acts.

use askama::Template;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::credentials::no_secret;
use crate::accounts::links::{self, Link, Purpose};
use crate::secret::Secret;
use crate::web::emails;
use crate::web::error::WebError;
use crate::web::state::Web;
use crate::web::ui::page::{Page, Tab, render_as};

/// The query of a link, and the only value of the form behind it.
#[derive(Debug, Deserialize)]
pub(crate) struct LinkQuery {
    #[serde(default = "no_secret")]
    pub(super) link: Secret,
}

/// A page that asks to press a button.
#[derive(Template)]
#[template(path = "sign_in/confirm.html")]
pub(super) struct ConfirmPage<'a> {
    pub(super) page: Page,
    pub(super) text: String,
    pub(super) action: &'static str,
    pub(super) link: &'a str,
    pub(super) button: &'static str,
}

/// A page that says something and leads on.
#[derive(Template)]
#[template(path = "sign_in/notice.html")]
struct NoticePage {
    page: Page,
    text: &'static str,
    url: &'static str,
    label: &'static str,
}

/// Shows a notice with a link to `url`.
pub(super) fn show_notice(
    status: StatusCode,
    title: &str,
    text: &'static str,
    (url, label): (&'static str, &'static str),
) -> Result<Response, WebError> {
    let page = NoticePage {
        page: Page::neutral(title),
        text,
        url,
        label,
    };
    render_as(status, &page)
}

/// The page for a link that cannot be used: unknown, too old, or used before.
pub(super) fn show_unusable(purpose: Purpose) -> Result<Response, WebError> {
    let way_on = match purpose {
        Purpose::ResetPassword => (emails::FORGOT, "Ask for a new link"),
        Purpose::VerifyEmail => ("/account", "Go to your account"),
        Purpose::ChangeEmail => ("/account/security", "Go to your account"),
    };
    show_notice(
        StatusCode::GONE,
        "This link does not work any more",
        "A link works once, for an hour, and only until the account's password or address changes. \
         Ask for a new one.",
        way_on,
    )
}

/// The link with this secret, if it can still be used.
pub(super) async fn find_usable(
    web: &Web,
    secret: &Secret,
    purpose: Purpose,
) -> Result<Option<Link>, WebError> {
    let link = links::find(&web.app.db, secret.expose(), purpose).await?;
    Ok(link.filter(|link| !link.is_used))
}

//! `/account/tokens`: creating, rotating and revoking API tokens. The response that issues a token
//! shows it; no other page can.

use std::time::Duration;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::overview::show_forms;
use super::token_form::NewTokenForm;
use crate::id::TokenId;
use crate::secret::Secret;
use crate::tokens::{self, Scope, Token, TokenError};
use crate::web::error::WebError;
use crate::web::form_dedup::{FormIntent, new_form_id};
use crate::web::session::CurrentAccount;
use crate::web::sign_in::password_check::is_own_password;
use crate::web::state::Web;
use crate::web::ui::field::{Choice, Field};
use crate::web::ui::form::FormState;
use crate::web::ui::page::{Flash, Page, Tab, render_as};
use crate::web::ui::snippet::Snippet;
use crate::web::ui::time::RelativeTime;

/// Seconds for which the old token still works after a rotation, what the choice is called, and
/// what was done.
const OVERLAPS: [(u64, &str, &str); 3] = [
    (0, "Not at all", "The old token does not work any more."),
    (
        3600,
        "For an hour",
        "The old token still works for an hour.",
    ),
    (86_400, "For a day", "The old token still works for a day."),
];

#[derive(Template)]
#[template(path = "account/token_created.html")]
struct IssuedPage {
    page: Page,
    sentence: String,
    token: Snippet,
    try_acquire: Snippet,
    try_release: Snippet,
}

async fn show_issued(
    web: &Web,
    current: &CurrentAccount,
    token: &Secret,
    title: &str,
    sentence: String,
) -> Result<Response, WebError> {
    let (url, token) = (web.base_url(), token.expose());
    let call = |name: &str| format!("curl -u {token}: {url}/v1/{name}/my-first-lock");
    let page = IssuedPage {
        page: current.page(title, Tab::Account).await?,
        sentence,
        token: Snippet::new("token", "Your API token", token).wrapped(),
        try_acquire: Snippet::new("try-acquire", "Take a lock", call("acquire")).wrapped(),
        try_release: Snippet::new("try-release", "Give it back", call("release")).wrapped(),
    };
    render_as(StatusCode::CREATED, &page)
}

pub(crate) async fn create(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(submitted): Form<NewTokenForm>,
) -> Result<Response, WebError> {
    let submitted = submitted.with_defaults();
    match submitted.submit(&web, &current).await? {
        Ok(token) => {
            let sentence = format!("The token “{}” works now.", submitted.label.trim());
            show_issued(&web, &current, &token, "Your new token", sentence).await
        }
        Err(form) => show_forms(&web, &current, &form).await,
    }
}

#[derive(Template)]
#[template(path = "account/token.html")]
struct TokenPage {
    page: Page,
    token: Token,
    form: FormState,
    form_id: String,
    keep_old: Field,
    /// `None` where rotating the token needs no password.
    password: Option<Field>,
}

async fn show_form(
    current: &CurrentAccount,
    token: Token,
    form: FormState,
) -> Result<Response, WebError> {
    let overlaps = OVERLAPS.map(|(seconds, label, _)| Choice::new(seconds.to_string(), label));
    let password = Field::password("password", "Your password", "current-password");
    let title = form.title(&format!("Token {}", token.label));
    let page = TokenPage {
        page: current.page(title, Tab::Account).await?,
        keep_old: form.field(Field::radio(
            "keep_old",
            "The old token still works",
            overlaps,
        )),
        password: may_manage(&token).then(|| form.field(password)),
        form_id: new_form_id(),
        token,
        form,
    };
    render_as(page.form.status(), &page)
}

fn may_manage(token: &Token) -> bool {
    token.scope == Scope::Manage.as_str()
}

fn rotation_form(keep_old: &str) -> FormState {
    FormState::new("rotate").with("keep_old", keep_old)
}

/// A token of this account. The pages of any other token do not exist.
async fn find(web: &Web, current: &CurrentAccount, token_id: TokenId) -> Result<Token, WebError> {
    Ok(tokens::find(&web.app.db, current.account.account_id, token_id).await?)
}

fn parse_id(token_id: &str) -> Result<TokenId, WebError> {
    token_id.parse().map_err(|_| WebError::NotFound)
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(token_id): Path<String>,
) -> Result<Response, WebError> {
    let token = find(&web, &current, parse_id(&token_id)?).await?;
    show_form(&current, token, rotation_form("3600")).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RotateForm {
    form_id: String,
    keep_old: String,
    password: Option<Secret>,
}

pub(crate) async fn rotate(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(token_id): Path<String>,
    Form(submitted): Form<RotateForm>,
) -> Result<Response, WebError> {
    let token_id = parse_id(&token_id)?;
    let form = rotation_form(&submitted.keep_old);
    let overlap = OVERLAPS
        .into_iter()
        .find(|(seconds, ..)| seconds.to_string() == submitted.keep_old);
    // When the form is sent a second time, the token may be gone; its successor is shown again all
    // the same.
    let token = match find(&web, &current, token_id).await {
        Ok(token) => Some(token),
        Err(WebError::NotFound) => None,
        Err(error) => return Err(error),
    };
    if let Some(token) = &token {
        let form = form.clone();
        let form = if overlap.is_none() {
            form.rejected("keep_old", "choose how long the old token still works")
        } else if may_manage(token)
            && !is_own_password(&web, &current, submitted.password.as_ref()).await?
        {
            form.rejected(
                "password",
                "enter your password to rotate a token that can manage your account",
            )
        } else {
            form
        };
        if form.is_rejected() {
            return show_form(&current, token.clone(), form).await;
        }
    }
    let Some((overlap_s, _, sentence)) = overlap else {
        return Err(WebError::NotFound);
    };
    let (db, account) = (&web.app.db, &current.account);
    let rotate = async {
        if token.is_none() {
            return Err(TokenError::Unknown);
        }
        let overlap = Duration::from_secs(overlap_s);
        tokens::rotate(db, &current.actor(), account, token_id, overlap).await
    };
    let intent = FormIntent::Rotate {
        token_id,
        overlap_s,
    };
    let issued = web
        .form_dedup
        .issue_once(db, account.account_id, &submitted.form_id, intent, rotate)
        .await;
    match (issued, token) {
        (Ok(secret), _) => {
            let title = "The token's successor";
            show_issued(&web, &current, &secret, title, sentence.to_owned()).await
        }
        (Err(error @ TokenError::TooMany { .. }), Some(token)) => {
            show_form(&current, token, form.rejected("keep_old", error)).await
        }
        (Err(error), _) => Err(error.into()),
    }
}

pub(crate) async fn revoke(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(token_id): Path<String>,
) -> Result<Response, WebError> {
    let account_id = current.account.account_id;
    let actor = current.actor();
    tokens::revoke(&web.app.db, &actor, account_id, parse_id(&token_id)?).await?;
    let flash = Flash::ok("The token is revoked. Programs that use it are refused from now on.");
    current.redirect("/account", flash).await
}

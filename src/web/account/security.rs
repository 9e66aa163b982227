//! `/account/security`: password, e-mail address and sessions.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::browser_name::browser_name;
use crate::accounts::links::{self, Purpose};
use crate::accounts::sessions::{self, SessionHash, SessionInfo};
use crate::accounts::{self, AccountError, Email, PasswordAct};
use crate::secret::Secret;
use crate::transport::RequestContext;
use crate::web::emails;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::sign_in::credentials::{INVALID_EMAIL, new_password_field, no_secret};
use crate::web::sign_in::known_browser::remember;
use crate::web::sign_in::password_check::is_own_password;
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::FormState;
use crate::web::ui::page::{Flash, Page, Tab, render_as};
use crate::web::ui::time::RelativeTime;

const PATH: &str = "/account/security";
/// The names of the two forms.
const PASSWORD: &str = "password";
const EMAIL: &str = "email";

#[derive(Template)]
#[template(path = "account/security.html")]
struct SecurityPage {
    page: Page,
    email: String,
    is_verified: bool,
    password_form: FormState,
    current_password: Field,
    new_password: Field,
    email_form: FormState,
    new_email: Field,
    email_password: Field,
    sessions: Vec<SessionRow>,
}

struct SessionRow {
    browser: String,
    client_ip: String,
    created_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
    is_current: bool,
    handle: String,
}

impl SessionRow {
    fn new(session: SessionInfo, current: &CurrentAccount) -> Self {
        Self {
            browser: browser_name(session.user_agent.as_deref()),
            client_ip: session.client_ip.unwrap_or_else(|| "unknown".to_owned()),
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            is_current: session.hash == current.session_hash,
            handle: session.hash.to_hex(),
        }
    }
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    show_forms(&web, &current, FormState::default()).await
}

/// Shows the page, with one of its forms as it was submitted.
async fn show_forms(
    web: &Web,
    current: &CurrentAccount,
    submitted: FormState,
) -> Result<Response, WebError> {
    let account = &current.account;
    let mut sessions: Vec<_> = sessions::list(&web.app.db, account.account_id)
        .await?
        .into_iter()
        .map(|session| SessionRow::new(session, current))
        .collect();
    sessions.sort_by_key(|session| !session.is_current);
    let password_form = FormState::new(PASSWORD).or_submitted(&submitted);
    let email_form = FormState::new(EMAIL).or_submitted(&submitted);
    let password = |name, label| Field::password(name, label, "current-password");
    let new_email = Field::email("email", "New address")
        .autocomplete("email")
        .hint("We send a link to it. It counts once you have confirmed it.");
    let title = submitted.title("Security");
    let page = SecurityPage {
        page: current.page(title, Tab::Security).await?,
        email: account.email.clone(),
        is_verified: account.email_verified_at.is_some(),
        current_password: password_form.field(password("current_password", "Current password")),
        new_password: password_form.field(new_password_field("new_password", "New password")),
        password_form,
        new_email: email_form.field(new_email),
        email_password: email_form.field(password("password", "Password")),
        email_form,
        sessions,
    };
    render_as(submitted.status(), &page)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PasswordForm {
    current_password: Option<Secret>,
    new_password: Option<Secret>,
}

pub(crate) async fn change_password(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(submitted): Form<PasswordForm>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let account_id = current.account.account_id;
    let form = FormState::new(PASSWORD);
    let done = Flash::ok("Your password is changed. Every other session has ended.");
    let new_password = submitted.new_password.unwrap_or_else(no_secret);
    if !is_own_password(&web, &current, submitted.current_password.as_ref()).await? {
        // If the form was sent twice, the first one has set this very password.
        if is_own_password(&web, &current, Some(&new_password)).await? {
            return current.redirect(PATH, done).await;
        }
        let form = form.rejected("current_password", "this is not your current password");
        return show_forms(&web, &current, form).await;
    }
    let email = current.account.email();
    let hash = match app.passwords.hash_new(&new_password, &email).await {
        Ok(hash) => hash,
        Err(error) => {
            return show_forms(&web, &current, form.rejected("new_password", error)).await;
        }
    };
    let mut transaction = app.db.begin().await?;
    let (actor, change) = (current.actor(), PasswordAct::Change);
    accounts::set_password(&mut transaction, &actor, account_id, &hash, change).await?;
    sessions::end_all_but(&mut *transaction, account_id, Some(current.session_hash)).await?;
    links::void_all(&mut *transaction, account_id).await?;
    transaction.commit().await?;
    current.keep_with_password(hash.as_str()).await?;
    emails::send_password_changed(app, &current.account.email);
    let mut response = current.redirect(PATH, done).await?;
    let url = &app.public_url;
    remember(&mut response, url, account_id, hash.as_str(), None);
    Ok(response)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EmailForm {
    email: String,
    password: Option<Secret>,
}

pub(crate) async fn change_email(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    current: CurrentAccount,
    Form(submitted): Form<EmailForm>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let account = &current.account;
    let form = FormState::new(EMAIL).with("email", &submitted.email);
    let Ok(email) = submitted.email.parse::<Email>() else {
        return show_forms(&web, &current, form.rejected("email", INVALID_EMAIL)).await;
    };
    if email.as_str() == account.email {
        let form = form.rejected("email", "this is your address already");
        return show_forms(&web, &current, form).await;
    }
    if !is_own_password(&web, &current, submitted.password.as_ref()).await? {
        let form = form.rejected("password", "this is not your password");
        return show_forms(&web, &current, form).await;
    }
    // Like signing up, this tells whether an account has an e-mail address; so it has the same
    // throttle.
    let client_ip = context.client_ip();
    web.throttles.sign_up(client_ip, &email.key())?;
    web.throttles.mail(client_ip, &email.key())?;
    match accounts::find_by_email(&app.db, &email).await {
        Ok(other) if other.account_id != account.account_id => {
            let form = form.rejected("email", "another account has this address");
            return show_forms(&web, &current, form).await;
        }
        Ok(_) | Err(AccountError::Unknown) => {}
        Err(error) => return Err(error.into()),
    }
    let to = email.as_str();
    emails::send_link(app, account.account_id, Purpose::ChangeEmail, to).await?;
    let flash = Flash::ok(format!(
        "A link is on its way to {email}. The address changes when you confirm it."
    ));
    current.redirect(PATH, flash).await
}

pub(crate) async fn end_session(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(session): Path<String>,
) -> Result<Response, WebError> {
    let hash = SessionHash::from_hex(&session).ok_or(WebError::NotFound)?;
    if hash == current.session_hash {
        current.sign_out().await?;
        return Ok(Redirect::to("/login?done=signed-out").into_response());
    }
    if sessions::end(&web.app.db, current.account.account_id, hash).await? {
        let flash = Flash::ok("The session is ended.");
        return current.redirect(PATH, flash).await;
    }
    // It has ended by itself, or was never a session of this account: it is not in the list.
    Ok(Redirect::to(PATH).into_response())
}

pub(crate) async fn end_other_sessions(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    let (account_id, kept) = (current.account.account_id, current.session_hash);
    let ended = sessions::end_all_but(&web.app.db, account_id, Some(kept)).await?;
    let flash = Flash::ok(match ended {
        0 => "There was no other session.".to_owned(),
        1 => "One other session is ended.".to_owned(),
        number => format!("{number} other sessions are ended."),
    });
    current.redirect(PATH, flash).await
}

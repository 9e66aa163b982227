//! `/account/security`: password, e-mail address, sessions, and the end of the account.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;

use crate::accounts::links::{self, Purpose};
use crate::accounts::sessions::{self, SessionHash};
use crate::accounts::{self, AccountError, Email};
use crate::secret::Secret;
use crate::text::sentence;
use crate::transport::RequestContext;
use crate::web::account::browser_name as browser;
use crate::web::account::tokens::password_is_right;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::sign_in::log_in::{new_password_field, post};
use crate::web::ui::field::{Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, render, render_as};
use crate::web::ui::time::When;
use crate::web::{Web, emails as letters};

struct SessionRow {
    browser: String,
    address: String,
    created: When,
    last_seen: When,
    is_current: bool,
    handle: String,
}

#[derive(Template)]
#[template(path = "account/security.html")]
struct SecurityPage {
    page: Page,
    email: String,
    is_verified: bool,
    password_problems: Problems,
    current_password: Field,
    new_password: Field,
    email_problems: Problems,
    new_email: Field,
    email_password: Field,
    sessions: Vec<SessionRow>,
}

const PASSWORD_FORM: &str = "password-";
const EMAIL_FORM: &str = "email-";

/// What a form on this page was sent with, when it comes back.
#[derive(Default)]
struct CameBack {
    status: StatusCode,
    password_problems: Option<Problems>,
    email: String,
    email_problems: Option<Problems>,
}

async fn show_with(
    web: &Web,
    current: &CurrentAccount,
    back: CameBack,
) -> Result<Response, WebError> {
    let account = &current.account;
    let password_problems = back
        .password_problems
        .unwrap_or_else(|| Problems::of(PASSWORD_FORM));
    let email_problems = back
        .email_problems
        .unwrap_or_else(|| Problems::of(EMAIL_FORM));
    let title = if back.status == StatusCode::OK {
        "Security"
    } else {
        "Error: Security"
    };
    let mut sessions: Vec<_> = sessions::list(&web.app.db, account.account_id)
        .await?
        .into_iter()
        .map(|session| SessionRow {
            browser: browser::name(session.user_agent.as_deref()),
            address: session.client_ip.unwrap_or_else(|| "unknown".to_owned()),
            created: When::new(session.created_at),
            last_seen: When::new(session.last_seen_at),
            is_current: session.hash == current.session_hash,
            handle: session.hash.to_hex(),
        })
        .collect();
    sessions.sort_by_key(|session| !session.is_current);
    let page = SecurityPage {
        page: current.page(title, Tab::Security).await?,
        email: account.email.clone(),
        is_verified: account.email_verified_at.is_some(),
        current_password: Field::password(
            "current_password",
            "Current password",
            "current-password",
        )
        .of(&password_problems),
        new_password: new_password_field("new_password", "New password").of(&password_problems),
        password_problems,
        new_email: Field::email("email", "New address")
            .value(back.email)
            .autocomplete("email")
            .hint("We send a link to it. It counts once you have confirmed it.")
            .of(&email_problems),
        email_password: Field::password("password", "Password", "current-password")
            .of(&email_problems),
        email_problems,
        sessions,
    };
    render_as(back.status, &page)
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    show_with(&web, &current, CameBack::default()).await
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
    Form(form): Form<PasswordForm>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let account_id = current.account.account_id;
    let new = form
        .new_password
        .unwrap_or_else(crate::web::sign_in::log_in::nothing);
    let done = async || {
        current
            .flash(Flash::ok(
                "Your password is changed. Every other session has ended.",
            ))
            .await?;
        Ok(Redirect::to("/account/security").into_response())
    };
    let refuse = async |field, sentence: String| {
        let back = CameBack {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            password_problems: Some(Problems::one(PASSWORD_FORM, field, sentence)),
            ..CameBack::default()
        };
        show_with(&web, &current, back).await
    };
    if !password_is_right(&web, &current, form.current_password).await? {
        // The form sent twice: the first one has set this very password.
        if password_is_right(&web, &current, Some(new)).await? {
            return done().await;
        }
        return refuse(
            "current_password",
            "This is not your current password.".to_owned(),
        )
        .await;
    }
    let email: Email = current
        .account
        .email
        .parse()
        .map_err(|error| WebError::Bug(anyhow::Error::new(error)))?;
    let hash = match app.passwords.hash_new(&new, &email).await {
        Ok(hash) => hash,
        Err(refused) => return refuse("new_password", sentence(&refused)).await,
    };
    let mut transaction = app.db.begin().await?;
    accounts::set_password(&mut transaction, account_id, &hash).await?;
    sessions::end_all_but(&mut *transaction, account_id, Some(current.session_hash)).await?;
    links::void_all(&mut *transaction, account_id).await?;
    transaction.commit().await?;
    current.password_changed(hash.as_str()).await?;
    post(
        &web,
        letters::password_changed(&app.public_url, &current.account.email),
    );
    done().await
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
    Form(form): Form<EmailForm>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let account = &current.account;
    let refuse = async |field, sentence: &str| {
        let back = CameBack {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            email: form.email.clone(),
            email_problems: Some(Problems::one(EMAIL_FORM, field, sentence)),
            ..CameBack::default()
        };
        show_with(&web, &current, back).await
    };
    let Ok(email) = form.email.parse::<Email>() else {
        return refuse(
            "email",
            "Enter an e-mail address, such as name@example.com.",
        )
        .await;
    };
    if email.as_str() == account.email {
        return refuse("email", "This is your address already.").await;
    }
    if !password_is_right(&web, &current, form.password).await? {
        return refuse("password", "This is not your password.").await;
    }
    // As with signing up, this tells whether an address is taken; so it is as throttled.
    web.throttles.sign_up(context.client_ip(), &email.key())?;
    web.throttles.mail(context.client_ip(), &email.key())?;
    match accounts::find_by_email(&app.db, &email).await {
        Ok(other) if other.account_id != account.account_id => {
            return refuse("email", "Another account has this address.").await;
        }
        Ok(_) | Err(AccountError::Unknown) => {}
        Err(error) => return Err(error.into()),
    }
    let secret = links::create(
        &app.db,
        account.account_id,
        Purpose::ChangeEmail,
        email.as_str(),
    )
    .await?;
    post(
        &web,
        letters::change_email(&app.public_url, email.as_str(), &secret),
    );
    current
        .flash(Flash::ok(format!(
            "A link is on its way to {email}. The address changes when you confirm it."
        )))
        .await?;
    Ok(Redirect::to("/account/security").into_response())
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
    // One that has ended by now, or was never this account's, is the same to see: it is not in the
    // list.
    if sessions::end(&web.app.db, current.account.account_id, hash).await? {
        current.flash(Flash::ok("The session is ended.")).await?;
    }
    Ok(Redirect::to("/account/security").into_response())
}

pub(crate) async fn end_other_sessions(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    let ended = sessions::end_all_but(
        &web.app.db,
        current.account.account_id,
        Some(current.session_hash),
    )
    .await?;
    current
        .flash(Flash::ok(match ended {
            0 => "There was no other session.".to_owned(),
            1 => "One other session is ended.".to_owned(),
            number => format!("{number} other sessions are ended."),
        }))
        .await?;
    Ok(Redirect::to("/account/security").into_response())
}

#[derive(Template)]
#[template(path = "account/delete.html")]
struct DeletePage {
    page: Page,
    problems: Problems,
    password: Field,
}

impl DeletePage {
    async fn new(current: &CurrentAccount, problems: Problems) -> Result<Self, WebError> {
        Ok(Self {
            page: current
                .page(problems.title("Delete your account"), Tab::Security)
                .await?,
            password: Field::password("password", "Your password", "current-password")
                .of(&problems),
            problems,
        })
    }
}

pub(crate) async fn delete_form(current: CurrentAccount) -> Result<Response, WebError> {
    render(&DeletePage::new(&current, Problems::default()).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeleteForm {
    password: Option<Secret>,
}

pub(crate) async fn delete(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(form): Form<DeleteForm>,
) -> Result<Response, WebError> {
    if !password_is_right(&web, &current, form.password).await? {
        let problems = Problems::one("", "password", "This is not your password.");
        return render_as(
            StatusCode::UNPROCESSABLE_ENTITY,
            &DeletePage::new(&current, problems).await?,
        );
    }
    accounts::delete(&web.app.db, current.account.account_id).await?;
    current.sign_out().await?;
    Ok(Redirect::to("/login?done=account-deleted").into_response())
}

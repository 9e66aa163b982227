//! `/forgot` and `/reset`: a new password for an account whose owner forgot the old one.

use askama::Template;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;

use super::credentials::{INVALID_EMAIL, email_field, new_password_field, no_secret};
use super::known_browser::remember;
use super::link::{LinkQuery, find_usable, show_unusable};
use crate::accounts::links::{self, Purpose};
use crate::accounts::{self, AccountError, Email, PasswordAct, sessions};
use crate::id::AccountId;
use crate::secret::Secret;
use crate::tokens;
use crate::transport::RequestContext;
use crate::web::emails;
use crate::web::error::WebError;
use crate::web::session::owner;
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::FormState;
use crate::web::ui::page::{Page, Tab, render_as};

#[derive(Template)]
#[template(path = "sign_in/forgot.html")]
struct ForgotPage {
    page: Page,
    form: FormState,
    email: Field,
    is_sent: bool,
    is_by_smtp: bool,
}

fn show_forgot_form(web: &Web, form: FormState, is_sent: bool) -> Result<Response, WebError> {
    let title = if is_sent {
        "Look at your mail"
    } else {
        "Forgot your password?"
    };
    let page = ForgotPage {
        page: Page::visitor(form.title(title), Tab::SignIn),
        email: form.field(email_field()),
        is_sent,
        is_by_smtp: web.app.mail.is_by_smtp(),
        form,
    };
    render_as(page.form.status(), &page)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ForgotQuery {
    done: String,
}

pub(crate) async fn show_forgot(
    State(web): State<Web>,
    Query(query): Query<ForgotQuery>,
) -> Result<Response, WebError> {
    show_forgot_form(&web, FormState::default(), query.done == "sent")
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ForgotForm {
    email: String,
}

pub(crate) async fn forgot(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    Form(submitted): Form<ForgotForm>,
) -> Result<Response, WebError> {
    let Ok(email) = submitted.email.parse::<Email>() else {
        let form = FormState::default().with("email", submitted.email);
        return show_forgot_form(&web, form.rejected("email", INVALID_EMAIL), false);
    };
    web.throttles.mail(context.client_ip(), &email.key())?;
    match accounts::find_by_email(&web.app.db, &email).await {
        Ok(account) => {
            // In a task of its own: the response comes as fast as where there is no account.
            tokio::spawn(async move {
                let (account_id, to) = (account.account_id, &account.email);
                let sent = emails::send_link(&web.app, account_id, Purpose::ResetPassword, to);
                if let Err(error) = sent.await {
                    tracing::error!(%error, "no link for a forgotten password could be made");
                }
            });
        }
        Err(AccountError::Unknown) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Redirect::to("/forgot?done=sent").into_response())
}

#[derive(Template)]
#[template(path = "sign_in/reset.html")]
struct ResetPage<'a> {
    page: Page,
    form: FormState,
    link: &'a str,
    password: Field,
}

fn show_reset_form(link: &Secret, form: FormState) -> Result<Response, WebError> {
    let page = ResetPage {
        page: Page::neutral(form.title("Set a new password")),
        link: link.expose(),
        password: form.field(new_password_field("password", "New password")),
        form,
    };
    render_as(page.form.status(), &page)
}

pub(crate) async fn show_reset(
    State(web): State<Web>,
    Query(query): Query<LinkQuery>,
) -> Result<Response, WebError> {
    match find_usable(&web, &query.link, Purpose::ResetPassword).await? {
        Some(_) => show_reset_form(&query.link, FormState::default()),
        None => show_unusable(Purpose::ResetPassword),
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct ResetForm {
    #[serde(default = "no_secret")]
    link: Secret,
    #[serde(default = "no_secret")]
    password: Secret,
}

pub(crate) async fn reset(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    Form(submitted): Form<ResetForm>,
) -> Result<Response, WebError> {
    let app = &web.app;
    web.throttles.reset(context.client_ip())?;
    let secret = submitted.link.expose();
    let Some(link) = links::find(&app.db, secret, Purpose::ResetPassword).await? else {
        return show_unusable(Purpose::ResetPassword);
    };
    let account = match accounts::find(&app.db, link.account_id).await {
        Ok(account) => account,
        Err(AccountError::Unknown) => return show_unusable(Purpose::ResetPassword),
        Err(error) => return Err(error.into()),
    };
    if link.is_used {
        return reset_again(&web, link.account_id, &submitted.password).await;
    }
    // The stored text was an e-mail address when it was stored.
    let email = account.email();
    let hash = match app.passwords.hash_new(&submitted.password, &email).await {
        Ok(hash) => hash,
        Err(error) => {
            let form = FormState::default().rejected("password", error);
            return show_reset_form(&submitted.link, form);
        }
    };
    let mut transaction = app.db.begin().await?;
    let taken = links::take(&mut transaction, secret, Purpose::ResetPassword).await?;
    let Some(link) = taken else {
        return show_unusable(Purpose::ResetPassword);
    };
    let owner = owner(&context, &account);
    let reset = PasswordAct::Reset;
    accounts::set_password(&mut transaction, &owner, link.account_id, &hash, reset).await?;
    let is_first_proof =
        accounts::verify_email(&mut transaction, link.account_id, &link.email).await?;
    if is_first_proof {
        // Until now anybody may have signed up with this e-mail address: no token of theirs stays.
        tokens::revoke_all(&mut transaction, &owner, link.account_id).await?;
    }
    sessions::end_all_but(&mut *transaction, link.account_id, None).await?;
    links::void_all(&mut *transaction, link.account_id).await?;
    transaction.commit().await?;
    emails::send_password_changed(app, &account.email);
    let mut response = password_is_set();
    // The link has proved whose browser this is.
    let url = &app.public_url;
    remember(&mut response, url, link.account_id, hash.as_str(), None);
    Ok(response)
}

fn password_is_set() -> Response {
    Redirect::to("/login?done=password-set").into_response()
}

/// The response where the link was used before. If the form was sent twice, the first one has set
/// this very password. Throttled, so that a finder of the link learns no more from it than from
/// signing in.
async fn reset_again(
    web: &Web,
    account_id: AccountId,
    password: &Secret,
) -> Result<Response, WebError> {
    web.throttles.password(account_id.0)?;
    let hash = accounts::password_hash(&web.app.db, account_id).await?;
    if web.app.passwords.verify(password, hash.as_deref()).await {
        Ok(password_is_set())
    } else {
        show_unusable(Purpose::ResetPassword)
    }
}

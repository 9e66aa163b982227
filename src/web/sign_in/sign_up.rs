//! `/signup`: creating an account.

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use tower_sessions::Session;

use super::credentials::{Credentials, INVALID_EMAIL, email_field, new_password_field};
use super::known_browser::remember;
use super::password_check::try_password;
use crate::accounts::links::Purpose;
use crate::accounts::{self, AccountError, Email, NewAccount};
use crate::plans::DEFAULT_PLAN;
use crate::transport::RequestContext;
use crate::web::emails;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, sign_in};
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::FormState;
use crate::web::ui::page::{Page, Tab, render_as};

#[derive(Template)]
#[template(path = "sign_in/sign_up.html")]
struct SignUpPage {
    page: Page,
    form: FormState,
    email: Field,
    password: Field,
}

fn show_form(form: FormState) -> Result<Response, WebError> {
    let page = SignUpPage {
        page: Page::visitor(form.title("Create an account"), Tab::None),
        email: form.field(email_field()),
        password: form.field(new_password_field("password", "Password")),
        form,
    };
    render_as(page.form.status(), &page)
}

pub(crate) async fn show(current: Option<CurrentAccount>) -> Result<Response, WebError> {
    if current.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    show_form(FormState::default())
}

pub(crate) async fn submit(
    State(web): State<Web>,
    session: Session,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Form(submitted): Form<Credentials>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let form = FormState::default().with("email", &submitted.email);
    let Ok(email) = submitted.email.parse::<Email>() else {
        return show_form(form.rejected("email", INVALID_EMAIL));
    };
    let client_ip = context.client_ip();
    web.throttles.sign_up(client_ip, &email.key())?;
    let hash = match app.passwords.hash_new(&submitted.password, &email).await {
        Ok(hash) => hash,
        Err(error) => return show_form(form.rejected("password", error)),
    };
    let new = NewAccount {
        email: &email,
        password: Some(hash.clone()),
        plan: DEFAULT_PLAN,
        is_admin: false,
        email_verified: false,
    };
    let (account_id, hash, browser) = match accounts::create(&app.db, new, None).await {
        Ok(account_id) => {
            emails::send_link(app, account_id, Purpose::VerifyEmail, email.as_str()).await?;
            (account_id, hash.as_str().to_owned(), None)
        }
        Err(AccountError::EmailTaken) => {
            // The form was sent twice, or its sender forgot that they have an account. With the
            // right password, signing up is signing in.
            let found = try_password(&web, &context, &headers, &email, &submitted.password).await?;
            let Some(verified) = found else {
                return show_form(form.rejected(
                    "email",
                    "There is an account with this address. Sign in, or ask for a new password.",
                ));
            };
            let account_id = verified.account.account_id;
            (account_id, verified.password_hash, verified.browser)
        }
        Err(error) => return Err(error.into()),
    };
    sign_in(&session, &context, &headers, account_id, &hash).await?;
    let mut response = Redirect::to("/account").into_response();
    remember(&mut response, &app.public_url, account_id, &hash, browser);
    Ok(response)
}

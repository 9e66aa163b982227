//! `/account/delete`: the end of an account.

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::accounts;
use crate::secret::Secret;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::sign_in::password_check::is_own_password;
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::FormState;
use crate::web::ui::page::{Page, Tab, render_as};

#[derive(Template)]
#[template(path = "account/delete.html")]
struct DeletePage {
    page: Page,
    form: FormState,
    password: Field,
}

async fn show_form(current: &CurrentAccount, form: FormState) -> Result<Response, WebError> {
    let title = form.title("Delete your account");
    let password = Field::password("password", "Your password", "current-password");
    let page = DeletePage {
        page: current.page(title, Tab::Security).await?,
        password: form.field(password),
        form,
    };
    render_as(page.form.status(), &page)
}

pub(crate) async fn show(current: CurrentAccount) -> Result<Response, WebError> {
    show_form(&current, FormState::default()).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeleteForm {
    password: Option<Secret>,
}

pub(crate) async fn delete(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(submitted): Form<DeleteForm>,
) -> Result<Response, WebError> {
    if !is_own_password(&web, &current, submitted.password.as_ref()).await? {
        let form = FormState::default().rejected("password", "this is not your password");
        return show_form(&current, form).await;
    }
    accounts::delete(&web.app.db, current.account.account_id).await?;
    current.sign_out().await?;
    Ok(Redirect::to("/login?done=account-deleted").into_response())
}

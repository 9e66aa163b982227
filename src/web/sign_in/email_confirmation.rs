//! `/verify` and `/change-email`: confirming the e-mail address of an account, and another one in
//! its place.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};

use super::link::{ConfirmPage, LinkQuery, find_usable, show_notice, show_unusable};
use crate::accounts::links::{self, Purpose};
use crate::accounts::{self, AccountError, Email};
use crate::transport::RequestContext;
use crate::web::emails;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, owner};
use crate::web::state::Web;
use crate::web::ui::page::{Flash, Page, render};

pub(crate) async fn show_verify(
    State(web): State<Web>,
    Query(query): Query<LinkQuery>,
) -> Result<Response, WebError> {
    let Some(link) = find_usable(&web, &query.link, Purpose::VerifyEmail).await? else {
        return show_unusable(Purpose::VerifyEmail);
    };
    render(&ConfirmPage {
        page: Page::neutral("Confirm your address"),
        text: format!("{} is the address of your Lockable account.", link.email),
        action: emails::VERIFY,
        link: query.link.expose(),
        button: "Confirm address",
    })
}

pub(crate) async fn verify(
    State(web): State<Web>,
    current: Option<CurrentAccount>,
    Form(submitted): Form<LinkQuery>,
) -> Result<Response, WebError> {
    let secret = submitted.link.expose();
    let mut transaction = web.app.db.begin().await?;
    match links::take(&mut transaction, secret, Purpose::VerifyEmail).await? {
        Some(link) => {
            accounts::verify_email(&mut transaction, link.account_id, &link.email).await?;
            transaction.commit().await?;
        }
        None => {
            transaction.rollback().await?;
            // A link that was used lately: the form was sent twice.
            let used = links::find(&web.app.db, secret, Purpose::VerifyEmail).await?;
            if used.is_none() {
                return show_unusable(Purpose::VerifyEmail);
            }
        }
    }
    match current {
        Some(current) => {
            let flash = Flash::ok("Your address is confirmed.");
            current.redirect("/account", flash).await
        }
        None => Ok(Redirect::to("/login?done=address-confirmed").into_response()),
    }
}

pub(crate) async fn show_change_email(
    State(web): State<Web>,
    Query(query): Query<LinkQuery>,
) -> Result<Response, WebError> {
    let Some(link) = find_usable(&web, &query.link, Purpose::ChangeEmail).await? else {
        return show_unusable(Purpose::ChangeEmail);
    };
    render(&ConfirmPage {
        page: Page::neutral("Confirm your new address"),
        text: format!(
            "From then on you sign in to your Lockable account with {}.",
            link.email
        ),
        action: emails::CHANGE_EMAIL,
        link: query.link.expose(),
        button: "Use this address",
    })
}

pub(crate) async fn change_email(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    current: Option<CurrentAccount>,
    Form(submitted): Form<LinkQuery>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let Some(link) = find_usable(&web, &submitted.link, Purpose::ChangeEmail).await? else {
        return show_unusable(Purpose::ChangeEmail);
    };
    let account = accounts::find(&app.db, link.account_id).await?;
    let new_email: Email = link
        .email
        .parse()
        .map_err(|error| WebError::Bug(anyhow::Error::new(error)))?;
    let mut transaction = app.db.begin().await?;
    let secret = submitted.link.expose();
    let taken = links::take(&mut transaction, secret, Purpose::ChangeEmail).await?;
    if taken.is_none() {
        return show_unusable(Purpose::ChangeEmail);
    }
    let owner = owner(&context, &account);
    match accounts::change_email(&mut transaction, &owner, link.account_id, &new_email).await {
        Ok(()) => {}
        Err(AccountError::EmailTaken) => {
            return show_notice(
                StatusCode::CONFLICT,
                "Another account has this address",
                "It signed up with it while your link was on its way. Your address stays as it \
                 was.",
                ("/account/security", "Go to your account"),
            );
        }
        Err(error) => return Err(error.into()),
    }
    links::void_all(&mut *transaction, link.account_id).await?;
    transaction.commit().await?;
    emails::send_email_changed(app, &account.email, new_email.as_str());
    match current {
        Some(current) if current.account.account_id == link.account_id => {
            let flash = Flash::ok(format!("Your address is {new_email} now."));
            current.redirect("/account/security", flash).await
        }
        _ => Ok(Redirect::to("/login?done=address-confirmed").into_response()),
    }
}

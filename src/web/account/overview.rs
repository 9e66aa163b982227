//! `/account`: the plan, the settings and the API tokens.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;

use super::token_form::{NewTokenFields, NewTokenForm};
use crate::accounts::links::Purpose;
use crate::accounts::{self, AccountError};
use crate::namespaces;
use crate::tokens::{self, Token};
use crate::transport::RequestContext;
use crate::web::emails;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::{FormState, parse_milliseconds};
use crate::web::ui::limits::{LimitsView, used};
use crate::web::ui::number::grouped;
use crate::web::ui::page::{Flash, Page, Tab, render_as};
use crate::web::ui::time::RelativeTime;

/// The name of the form for the default lease.
const LEASE: &str = "lease";

#[derive(Template)]
#[template(path = "account/overview.html")]
struct OverviewPage {
    page: Page,
    email: String,
    is_verified: bool,
    must_verify: bool,
    limits: LimitsView,
    upgrade_url: Option<String>,
    tokens: Vec<Token>,
    used_tokens: String,
    new_token: NewTokenFields,
    lease_form: FormState,
    /// `None` where the plan fixes the lease.
    lease: Option<Field>,
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    show_forms(&web, &current, &FormState::default()).await
}

/// Shows the page, with one of its forms as it was submitted.
pub(super) async fn show_forms(
    web: &Web,
    current: &CurrentAccount,
    submitted: &FormState,
) -> Result<Response, WebError> {
    let account = &current.account;
    let limits = &account.limits;
    let namespaces = namespaces::list(&web.app.db, account.account_id).await?;
    let tokens = tokens::list(&web.app.db, account.account_id).await?;
    let new_token = NewTokenForm::default().with_defaults().state();
    let lease_default_ms = account.lease_default_ms.map(|ms| ms.to_string());
    let lease_form = FormState::new(LEASE)
        .with("lease_ms", lease_default_ms.unwrap_or_default())
        .or_submitted(submitted);
    let lease = Field::number("lease_ms", "Milliseconds")
        .optional()
        .hint(format!(
            "From {} to {}. Empty: the plan's default, {}. Running leases keep their length.",
            grouped(limits.lease_min_ms),
            grouped(limits.lease_max_ms),
            grouped(limits.lease_default_ms)
        ));
    let title = submitted.title("Your account");
    let page = OverviewPage {
        page: current.page(title, Tab::Account).await?,
        email: account.email.clone(),
        is_verified: account.email_verified_at.is_some(),
        must_verify: web.app.mail.is_by_smtp(),
        limits: LimitsView::of_account(limits, account.lease_default_ms),
        upgrade_url: web.upgrade_url(),
        used_tokens: used(tokens.len(), limits.max_tokens),
        tokens,
        new_token: NewTokenFields::new(new_token.or_submitted(submitted), &namespaces),
        lease: limits
            .lease_is_configurable()
            .then(|| lease_form.field(lease)),
        lease_form,
    };
    render_as(submitted.status(), &page)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LeaseForm {
    lease_ms: String,
}

pub(crate) async fn set_lease(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(submitted): Form<LeaseForm>,
) -> Result<Response, WebError> {
    if !current.account.limits.lease_is_configurable() {
        return Err(web.not_in_plan("Leases of your own choice"));
    }
    let form = FormState::new(LEASE).with("lease_ms", &submitted.lease_ms);
    let lease_ms = match parse_milliseconds(&submitted.lease_ms) {
        Ok(lease_ms) => lease_ms,
        Err(problem) => {
            return show_forms(&web, &current, &form.rejected("lease_ms", problem)).await;
        }
    };
    match accounts::set_lease_default(&web.app.db, &current.account, lease_ms).await {
        Ok(()) => {
            let flash = Flash::ok("Saved. New leases have this length.");
            current.redirect("/account", flash).await
        }
        Err(AccountError::Lease(error)) => {
            show_forms(&web, &current, &form.rejected("lease_ms", error)).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Sends the link that confirms the e-mail address once more.
pub(crate) async fn send_verification_again(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    let account = &current.account;
    if account.email_verified_at.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    let email = &account.email;
    web.throttles
        .mail(context.client_ip(), &account.email().key())?;
    emails::send_link(&web.app, account.account_id, Purpose::VerifyEmail, email).await?;
    let flash = Flash::ok(format!("The link is on its way to {email}."));
    current.redirect("/account", flash).await
}

//! `/account`: the plan, the settings and the API tokens.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;

use crate::accounts::{self, Account, AccountError};
use crate::namespaces;
use crate::text::sentence;
use crate::tokens;
use crate::transport::RequestContext;
use crate::web::account::tokens::{NewTokenForm, TokenForm, TokenRow};
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::sign_in::log_in::send_verification;
use crate::web::ui::field::{Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, duration, grouped, render_as};
use crate::web::{Web, form_dedup as once};

#[derive(Template)]
#[template(path = "account/overview.html")]
struct AccountPage {
    page: Page,
    account: AccountFacts,
    plan: PlanFacts,
    upgrade_url: Option<String>,
    tokens: Vec<TokenRow>,
    once: String,
    token_problems: Problems,
    token: NewTokenForm,
    lease_problems: Problems,
    lease_field: Option<Field>,
}

struct AccountFacts {
    email: String,
    is_verified: bool,
    must_verify: bool,
}

struct PlanFacts {
    name: String,
    lease: String,
    max_tokens: String,
    max_live_locks: String,
    max_waiters: String,
    requests_per_second: String,
    max_private_namespaces: String,
}

impl PlanFacts {
    fn of(account: &Account) -> Self {
        let limits = &account.limits;
        let lease = if limits.lease_is_configurable() {
            let own = limits
                .lease_ms(None, None, account.lease_default_ms)
                .unwrap_or(limits.lease_default_ms);
            format!(
                "{} ({} to {})",
                duration(own),
                duration(limits.lease_min_ms),
                duration(limits.lease_max_ms)
            )
        } else {
            format!("{}, fixed", duration(limits.lease_default_ms))
        };
        Self {
            name: limits.name.clone(),
            lease,
            max_tokens: grouped(limits.max_tokens),
            max_live_locks: grouped(limits.max_live_locks),
            max_waiters: grouped(limits.max_waiters),
            requests_per_second: grouped(limits.requests_per_second),
            max_private_namespaces: match limits.max_private_namespaces {
                0 => "none".to_owned(),
                number => grouped(number),
            },
        }
    }
}

/// What a form on this page was sent with, when it comes back.
#[derive(Default)]
pub(crate) struct CameBack {
    pub(crate) status: StatusCode,
    pub(crate) token: TokenForm,
    pub(crate) token_problems: Option<Problems>,
    pub(crate) lease: Option<String>,
    pub(crate) lease_problems: Option<Problems>,
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    show_with(&web, &current, CameBack::default()).await
}

pub(crate) async fn show_with(
    web: &Web,
    current: &CurrentAccount,
    back: CameBack,
) -> Result<Response, WebError> {
    let account = &current.account;
    let db = &web.app.db;
    let namespaces = namespaces::list(db, account.account_id).await?;
    let tokens = tokens::list(db, account.account_id).await?;
    let token_problems = back
        .token_problems
        .unwrap_or_else(|| Problems::of("token-"));
    let lease_problems = back
        .lease_problems
        .unwrap_or_else(|| Problems::of("lease-"));
    let title = if back.status == StatusCode::OK {
        "Your account"
    } else {
        "Error: Your account"
    };
    let limits = &account.limits;
    let lease_field = limits.lease_is_configurable().then(|| {
        let value = back.lease.unwrap_or_else(|| {
            account
                .lease_default_ms
                .map(|ms| ms.to_string())
                .unwrap_or_default()
        });
        Field::number("lease_ms", "Milliseconds")
            .value(value)
            .optional()
            .hint(format!(
                "From {} to {}. Empty: the plan's default, {}. Running leases keep their length.",
                grouped(limits.lease_min_ms),
                grouped(limits.lease_max_ms),
                grouped(limits.lease_default_ms)
            ))
            .of(&lease_problems)
    });
    let page = AccountPage {
        page: current.page(title, Tab::Account).await?,
        account: AccountFacts {
            email: account.email.clone(),
            is_verified: account.email_verified_at.is_some(),
            must_verify: web.app.mail.is_by_smtp(),
        },
        plan: PlanFacts::of(account),
        upgrade_url: web
            .app
            .settings
            .upgrade_url
            .as_ref()
            .map(ToString::to_string),
        tokens: tokens.into_iter().map(TokenRow::from).collect(),
        once: once::form_id(),
        token: NewTokenForm::new(&back.token, &namespaces, &token_problems),
        token_problems,
        lease_field,
        lease_problems,
    };
    render_as(back.status, &page)
}

#[derive(Debug, Deserialize)]
pub(crate) struct LeaseForm {
    #[serde(default)]
    lease_ms: String,
}

/// Reads a length in milliseconds from a form. Empty: none.
pub(crate) fn milliseconds(text: &str) -> Result<Option<i64>, &'static str> {
    let text: String = text
        .chars()
        .filter(|c| !matches!(c, ',' | ' ' | '\u{a0}'))
        .collect();
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| "Enter a whole number of milliseconds, or nothing.")
}

pub(crate) async fn set_lease(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(form): Form<LeaseForm>,
) -> Result<Response, WebError> {
    if !current.account.limits.lease_is_configurable() {
        return Err(WebError::needs_plan(
            "Leases of your own choice",
            web.app.settings.upgrade_url.as_ref(),
        ));
    }
    let problem = match milliseconds(&form.lease_ms) {
        Err(problem) => problem.to_owned(),
        Ok(lease_ms) => {
            match accounts::set_lease_default(&web.app.db, &current.account, lease_ms).await {
                Ok(()) => {
                    current
                        .flash(Flash::ok("Saved. New leases have this length."))
                        .await?;
                    return Ok(Redirect::to("/account").into_response());
                }
                Err(AccountError::Lease(refused)) => sentence(&refused),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let back = CameBack {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        lease_problems: Some(Problems::one("lease-", "lease_ms", problem)),
        lease: Some(form.lease_ms),
        ..CameBack::default()
    };
    show_with(&web, &current, back).await
}

/// Sends the link that confirms the address once more.
pub(crate) async fn send_verification_again(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    let account = &current.account;
    if account.email_verified_at.is_none() {
        web.throttles
            .mail(context.client_ip(), &account.email.to_lowercase())?;
        send_verification(&web, account.account_id, &account.email).await?;
        current
            .flash(Flash::ok(format!(
                "The link is on its way to {}.",
                account.email
            )))
            .await?;
    }
    Ok(Redirect::to("/account").into_response())
}

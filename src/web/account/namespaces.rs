//! `/account/namespaces`: the account's private namespaces, where its plan has any.

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::accounts::Account;
use crate::namespaces::{self, Namespace, NamespaceError, PUBLIC};
use crate::text::sentence;
use crate::web::Web;
use crate::web::account::overview::milliseconds;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::ui::field::{Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, duration, grouped, render, render_as};
use crate::web::ui::time::When;

/// What a plan without private namespaces is told that it lacks.
const WHAT: &str = "Private namespaces";

struct Row {
    name: String,
    is_public: bool,
    /// Whether new locks are given in it: the oldest ones are, as many as the plan has.
    takes_locks: bool,
    lease: String,
    tokens: i64,
    created: When,
}

impl Row {
    fn of(namespace: &Namespace, account: &Account) -> Self {
        Self {
            name: namespace.name.clone(),
            is_public: namespace.name == PUBLIC,
            takes_locks: namespaces::in_plan(namespace.age_rank, &account.limits),
            lease: lease(namespace, account),
            tokens: namespace.tokens,
            created: When::new(namespace.created_at),
        }
    }
}

/// The lease of a lock in this namespace where the request does not say.
fn lease(namespace: &Namespace, account: &Account) -> String {
    let limits = &account.limits;
    let lease_ms = limits.lease_ms(None, namespace.lease_default_ms, account.lease_default_ms);
    duration(lease_ms.unwrap_or(limits.lease_default_ms))
}

#[derive(Template)]
#[template(path = "account/namespaces.html")]
struct NamespacesPage {
    page: Page,
    plan: String,
    in_plan: bool,
    over: bool,
    can_create: bool,
    max: String,
    private: usize,
    upgrade_url: Option<String>,
    namespaces: Vec<Row>,
    problems: Problems,
    name: Field,
    lease: Field,
}

/// What the form sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceForm {
    name: String,
    lease_ms: String,
}

fn lease_field(account: &Account, value: &str, problems: &Problems) -> Field {
    let limits = &account.limits;
    let account_lease_ms = limits
        .lease_ms(None, None, account.lease_default_ms)
        .unwrap_or(limits.lease_default_ms);
    Field::number("lease_ms", "Default lease, milliseconds")
        .value(value)
        .optional()
        .hint(format!(
            "From {} to {}. Empty: the account's, {}.",
            grouped(limits.lease_min_ms),
            grouped(limits.lease_max_ms),
            grouped(account_lease_ms)
        ))
        .of(problems)
}

async fn list_page(
    web: &Web,
    current: &CurrentAccount,
    status: StatusCode,
    form: NamespaceForm,
    problems: Problems,
) -> Result<Response, WebError> {
    let account = &current.account;
    let namespaces = namespaces::list(&web.app.db, account.account_id).await?;
    let max = account.limits.max_private_namespaces;
    let private = namespaces
        .iter()
        .filter(|namespace| namespace.name != PUBLIC)
        .count();
    let in_plan = max > 0;
    let limit = usize::try_from(max).unwrap_or(0);
    let rows: Vec<_> = namespaces
        .iter()
        .map(|namespace| Row::of(namespace, account))
        .collect();
    // Who has none and can have none is told what it is and how to get it.
    let status = if !in_plan && private == 0 && status == StatusCode::OK {
        StatusCode::FORBIDDEN
    } else {
        status
    };
    let page = NamespacesPage {
        page: current
            .page(problems.title("Namespaces"), Tab::Namespaces)
            .await?,
        plan: account.limits.name.clone(),
        in_plan,
        over: private > limit,
        can_create: in_plan && (private < limit || !problems.is_empty()),
        max: grouped(max),
        private,
        upgrade_url: web
            .app
            .settings
            .upgrade_url
            .as_ref()
            .map(ToString::to_string),
        namespaces: rows,
        name: Field::text("name", "Name")
            .value(form.name)
            .hint("1 to 63 of a-z, 0-9 and -, such as billing or team-7.")
            .attribute("maxlength", "63")
            .attribute("autocapitalize", "none")
            .attribute("spellcheck", "false")
            .autocomplete("off")
            .of(&problems),
        lease: lease_field(account, &form.lease_ms, &problems),
        problems,
    };
    render_as(status, &page)
}

pub(crate) async fn list(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    list_page(
        &web,
        &current,
        StatusCode::OK,
        NamespaceForm::default(),
        Problems::of("namespace-"),
    )
    .await
}

/// Reads a default lease: none, or one that the account's plan allows.
fn read_lease(account: &Account, text: &str) -> Result<Option<i64>, String> {
    let lease_ms = milliseconds(text).map_err(str::to_owned)?;
    if let Some(lease_ms) = lease_ms {
        account
            .limits
            .check_lease_ms(lease_ms)
            .map_err(|refused| sentence(&refused))?;
    }
    Ok(lease_ms)
}

pub(crate) async fn create(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(form): Form<NamespaceForm>,
) -> Result<Response, WebError> {
    let account = &current.account;
    let needs_plan = || WebError::needs_plan(WHAT, web.app.settings.upgrade_url.as_ref());
    if account.limits.max_private_namespaces == 0 {
        return Err(needs_plan());
    }
    let mut problems = Problems::of("namespace-");
    let name = form.name.trim();
    // Both fields are looked at, so that both are told at once.
    if let Err(error) = namespaces::check_name(name) {
        problems.add("name", sentence(&error));
    }
    let lease_ms = match read_lease(account, &form.lease_ms) {
        Ok(lease_ms) => lease_ms,
        Err(problem) => {
            problems.add("lease_ms", problem);
            None
        }
    };
    if problems.is_empty() {
        match namespaces::create(&web.app.db, account, name).await {
            Ok(_) => {
                if lease_ms.is_some() {
                    namespaces::set_lease_default(&web.app.db, account, name, lease_ms).await?;
                }
                let done = format!(
                    "The namespace {name} is there. Create a token for it to take locks in it."
                );
                current.flash(Flash::ok(done)).await?;
                return Ok(Redirect::to("/account/namespaces").into_response());
            }
            Err(NamespaceError::NotInPlan) => return Err(needs_plan()),
            Err(
                refused @ (NamespaceError::InvalidName
                | NamespaceError::Reserved
                | NamespaceError::Taken
                | NamespaceError::TooMany { .. }),
            ) => problems.add("name", sentence(&refused)),
            Err(error) => return Err(error.into()),
        }
    }
    list_page(
        &web,
        &current,
        StatusCode::UNPROCESSABLE_ENTITY,
        form,
        problems,
    )
    .await
}

#[derive(Template)]
#[template(path = "account/namespace.html")]
struct NamespacePage {
    page: Page,
    namespace: Row,
    lease_problems: Problems,
    lease: Option<Field>,
    in_use: bool,
}

/// One of this account's private namespaces.
async fn find(web: &Web, current: &CurrentAccount, name: &str) -> Result<Namespace, WebError> {
    if name == PUBLIC {
        return Err(WebError::NotFound);
    }
    Ok(namespaces::find(&web.app.db, current.account.account_id, name).await?)
}

async fn namespace_page(
    current: &CurrentAccount,
    namespace: &Namespace,
    typed: Option<String>,
    lease_problems: Problems,
    in_use: bool,
) -> Result<NamespacePage, WebError> {
    let account = &current.account;
    let value = typed.unwrap_or_else(|| {
        namespace
            .lease_default_ms
            .map(|ms| ms.to_string())
            .unwrap_or_default()
    });
    let title = lease_problems.title(&format!("Namespace {}", namespace.name));
    Ok(NamespacePage {
        page: current.page(title, Tab::Namespaces).await?,
        namespace: Row::of(namespace, account),
        lease: account
            .limits
            .lease_is_configurable()
            .then(|| lease_field(account, &value, &lease_problems)),
        lease_problems,
        in_use,
    })
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(name): Path<String>,
) -> Result<Response, WebError> {
    let namespace = find(&web, &current, &name).await?;
    render(&namespace_page(&current, &namespace, None, Problems::of("lease-"), false).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LeaseForm {
    lease_ms: String,
}

pub(crate) async fn set_lease(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(name): Path<String>,
    Form(form): Form<LeaseForm>,
) -> Result<Response, WebError> {
    let account = &current.account;
    let namespace = find(&web, &current, &name).await?;
    if !account.limits.lease_is_configurable() {
        return Err(WebError::needs_plan(
            "Leases of your own choice",
            web.app.settings.upgrade_url.as_ref(),
        ));
    }
    let problem = match read_lease(account, &form.lease_ms) {
        Err(problem) => problem,
        Ok(lease_ms) => {
            match namespaces::set_lease_default(&web.app.db, account, &name, lease_ms).await {
                Ok(()) => {
                    current
                        .flash(Flash::ok(
                            "Saved. New leases in this namespace have this length.",
                        ))
                        .await?;
                    return Ok(Redirect::to(&format!("/account/namespaces/{name}")).into_response());
                }
                Err(NamespaceError::Lease(refused)) => sentence(&refused),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let problems = Problems::one("lease-", "lease_ms", problem);
    let page = namespace_page(&current, &namespace, Some(form.lease_ms), problems, false).await?;
    render_as(StatusCode::UNPROCESSABLE_ENTITY, &page)
}

pub(crate) async fn delete(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(name): Path<String>,
) -> Result<Response, WebError> {
    let namespace = find(&web, &current, &name).await?;
    match namespaces::delete(&web.app.db, current.account.account_id, &name).await {
        Ok(()) => {
            current
                .flash(Flash::ok(format!(
                    "The namespace {name} and its tokens are gone."
                )))
                .await?;
            Ok(Redirect::to("/account/namespaces").into_response())
        }
        Err(NamespaceError::InUse) => {
            let page =
                namespace_page(&current, &namespace, None, Problems::of("lease-"), true).await?;
            render_as(StatusCode::CONFLICT, &page)
        }
        Err(error) => Err(error.into()),
    }
}

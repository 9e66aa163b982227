//! `/account/namespaces`: the account's private namespaces, where its plan includes any.

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use crate::accounts::Account;
use crate::namespaces::{self, Namespace, NamespaceError, PUBLIC};
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::{FormState, parse_milliseconds};
use crate::web::ui::limits::used;
use crate::web::ui::number::grouped;
use crate::web::ui::page::{Flash, Page, Tab, render_as};
use crate::web::ui::time::{RelativeTime, duration};

/// The feature that a plan without private namespaces lacks.
const FEATURE: &str = "Private namespaces";

#[derive(Template)]
#[template(path = "account/namespaces.html")]
struct NamespacesPage {
    page: Page,
    plan: String,
    /// The number of private namespaces, and how many the plan includes.
    private: usize,
    limit: usize,
    used: String,
    upgrade_url: Option<String>,
    namespaces: Vec<Row>,
    form: FormState,
    can_create: bool,
    name: Field,
    lease: Field,
}

struct Row {
    namespace: Namespace,
    is_public: bool,
    is_in_plan: bool,
    /// The lease of a lock in this namespace, unless the request says otherwise.
    lease: String,
}

impl Row {
    fn new(namespace: Namespace, account: &Account) -> Self {
        let limits = &account.limits;
        let lease_ms = limits.lease_ms(None, namespace.lease_default_ms, account.lease_default_ms);
        Self {
            is_public: namespace.name == PUBLIC,
            is_in_plan: namespaces::in_plan(namespace.age_rank, limits),
            lease: duration(lease_ms.unwrap_or(limits.lease_default_ms)),
            namespace,
        }
    }
}

fn lease_field(account: &Account) -> Field {
    let limits = &account.limits;
    let account_lease_ms = limits
        .lease_ms(None, None, account.lease_default_ms)
        .unwrap_or(limits.lease_default_ms);
    Field::number("lease_ms", "Default lease, milliseconds")
        .optional()
        .hint(format!(
            "From {} to {}. Empty: the account's, {}.",
            grouped(limits.lease_min_ms),
            grouped(limits.lease_max_ms),
            grouped(account_lease_ms)
        ))
}

pub(crate) async fn list(
    State(web): State<Web>,
    current: CurrentAccount,
) -> Result<Response, WebError> {
    show_list(&web, &current, FormState::new("namespace")).await
}

async fn show_list(
    web: &Web,
    current: &CurrentAccount,
    form: FormState,
) -> Result<Response, WebError> {
    let account = &current.account;
    let namespaces = namespaces::list(&web.app.db, account.account_id).await?;
    let private = namespaces.len().saturating_sub(1);
    let max = account.limits.max_private_namespaces;
    let limit = usize::try_from(max).unwrap_or(0);
    // To an account that has none and can have none the page says what they are.
    let form = if limit == 0 && private == 0 && !form.is_rejected() {
        form.with_status(StatusCode::FORBIDDEN)
    } else {
        form
    };
    let name = Field::identifier("name", "Name")
        .hint("1 to 63 of a-z, 0-9 and -, such as billing or team-7.")
        .attribute("maxlength", "63");
    let page = NamespacesPage {
        page: current
            .page(form.title("Namespaces"), Tab::Namespaces)
            .await?,
        plan: account.limits.name.clone(),
        private,
        limit,
        used: used(private, max),
        upgrade_url: web.upgrade_url(),
        namespaces: namespaces
            .into_iter()
            .map(|namespace| Row::new(namespace, account))
            .collect(),
        can_create: limit > 0 && (private < limit || form.is_rejected()),
        name: form.field(name),
        lease: form.field(lease_field(account)),
        form,
    };
    render_as(page.form.status(), &page)
}

/// Parses a default lease: none, or one that the account's plan allows. Rejects the form otherwise.
fn parse_lease(account: &Account, text: &str, form: &mut FormState) -> Option<i64> {
    match parse_milliseconds(text) {
        Ok(lease_ms) => {
            let checked = lease_ms.map(|lease_ms| account.limits.check_lease_ms(lease_ms));
            if let Some(Err(error)) = checked {
                form.reject("lease_ms", error);
            }
            lease_ms
        }
        Err(problem) => {
            form.reject("lease_ms", problem);
            None
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NewNamespaceForm {
    name: String,
    lease_ms: String,
}

pub(crate) async fn create(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(submitted): Form<NewNamespaceForm>,
) -> Result<Response, WebError> {
    let account = &current.account;
    if account.limits.max_private_namespaces == 0 {
        return Err(web.not_in_plan(FEATURE));
    }
    let mut form = FormState::new("namespace")
        .with("name", &submitted.name)
        .with("lease_ms", &submitted.lease_ms);
    let name = submitted.name.trim();
    // Both fields are checked before anything is created, so that the page shows both problems.
    if let Err(error) = namespaces::check_name(name) {
        form.reject("name", error);
    }
    let lease_ms = parse_lease(account, &submitted.lease_ms, &mut form);
    if form.is_rejected() {
        return show_list(&web, &current, form).await;
    }
    match namespaces::create(&web.app.db, &current.actor(), account, name, lease_ms).await {
        Ok(_) => {}
        Err(NamespaceError::NotInPlan) => return Err(web.not_in_plan(FEATURE)),
        Err(
            error @ (NamespaceError::InvalidName
            | NamespaceError::Reserved
            | NamespaceError::Taken
            | NamespaceError::TooMany { .. }),
        ) => return show_list(&web, &current, form.rejected("name", error)).await,
        Err(error) => return Err(error.into()),
    }
    let flash = Flash::ok(format!(
        "The namespace {name} is there. Create a token for it to take locks in it."
    ));
    current.redirect("/account/namespaces", flash).await
}

#[derive(Template)]
#[template(path = "account/namespace.html")]
struct NamespacePage {
    page: Page,
    row: Row,
    form: FormState,
    /// `None` where the plan fixes the lease.
    lease: Option<Field>,
    is_in_use: bool,
}

/// One of this account's private namespaces.
async fn find(web: &Web, current: &CurrentAccount, name: &str) -> Result<Namespace, WebError> {
    if name == PUBLIC {
        return Err(WebError::NotFound);
    }
    Ok(namespaces::find(&web.app.db, current.account.account_id, name).await?)
}

/// The form for the default lease of a namespace.
fn lease_form(namespace: &Namespace) -> FormState {
    let lease_ms = namespace.lease_default_ms.map(|ms| ms.to_string());
    FormState::new("lease").with("lease_ms", lease_ms.unwrap_or_default())
}

async fn show_form(
    current: &CurrentAccount,
    namespace: Namespace,
    form: FormState,
) -> Result<Response, WebError> {
    let account = &current.account;
    let title = form.title(&format!("Namespace {}", namespace.name));
    let page = NamespacePage {
        page: current.page(title, Tab::Namespaces).await?,
        row: Row::new(namespace, account),
        lease: account
            .limits
            .lease_is_configurable()
            .then(|| form.field(lease_field(account))),
        // Nothing but a deletion that has to wait is answered with this status.
        is_in_use: form.status() == StatusCode::CONFLICT,
        form,
    };
    render_as(page.form.status(), &page)
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(name): Path<String>,
) -> Result<Response, WebError> {
    let namespace = find(&web, &current, &name).await?;
    let form = lease_form(&namespace);
    show_form(&current, namespace, form).await
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
    Form(submitted): Form<LeaseForm>,
) -> Result<Response, WebError> {
    let account = &current.account;
    let namespace = find(&web, &current, &name).await?;
    if !account.limits.lease_is_configurable() {
        return Err(web.not_in_plan("Leases of your own choice"));
    }
    let mut form = lease_form(&namespace).with("lease_ms", &submitted.lease_ms);
    let lease_ms = parse_lease(account, &submitted.lease_ms, &mut form);
    if form.is_rejected() {
        return show_form(&current, namespace, form).await;
    }
    let actor = current.actor();
    namespaces::set_lease_default(&web.app.db, &actor, account, &name, lease_ms).await?;
    let flash = Flash::ok("Saved. New leases in this namespace have this length.");
    let path = format!("/account/namespaces/{name}");
    current.redirect(&path, flash).await
}

pub(crate) async fn delete(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(name): Path<String>,
) -> Result<Response, WebError> {
    let namespace = find(&web, &current, &name).await?;
    let (actor, account_id) = (current.actor(), current.account.account_id);
    match namespaces::delete(&web.app.db, &actor, account_id, &name).await {
        Ok(()) => {
            let flash = Flash::ok(format!("The namespace {name} and its tokens are gone."));
            current.redirect("/account/namespaces", flash).await
        }
        Err(NamespaceError::InUse) => {
            let form = lease_form(&namespace).with_status(StatusCode::CONFLICT);
            show_form(&current, namespace, form).await
        }
        Err(error) => Err(error.into()),
    }
}

//! `/account/locks`: the locks that the account holds, and breaking them.

use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;

use crate::locks::store::{self, LiveLock};
use crate::locks::{self, BreakError, LockName};
use crate::namespaces::{self, Namespace};
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::state::Web;
use crate::web::ui::field::{Choice, Field};
use crate::web::ui::form::FormState;
use crate::web::ui::number::grouped;
use crate::web::ui::page::{Flash, Page, Tab, render, render_as};
use crate::web::ui::pagination::{FETCHED_ROWS, ListUrl, PaginatedList, with_query};
use crate::web::ui::time::{RelativeTime, remaining};

#[derive(Template)]
#[template(path = "account/locks.html")]
struct LocksPage {
    page: Page,
    /// `None` where there is only one namespace.
    filter: Option<Field>,
    namespace: String,
    locks: PaginatedList<Row>,
}

struct Row {
    lock: LiveLock,
    remaining: String,
    break_url: String,
}

impl From<LiveLock> for Row {
    fn from(lock: LiveLock) -> Self {
        let lease = [
            ("namespace", lock.namespace.clone()),
            ("name", lock.name.clone()),
            ("fencing_token", lock.fencing_token.to_string()),
        ];
        Self {
            break_url: with_query("/account/locks/break", lease),
            remaining: remaining(lock.remaining_ms),
            lock,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    namespace: String,
    after_namespace: String,
    after_name: String,
    after_token: i64,
}

pub(crate) async fn list(
    State(web): State<Web>,
    current: CurrentAccount,
    Query(query): Query<ListQuery>,
) -> Result<Response, WebError> {
    let db = &web.app.db;
    let account_id = current.account.account_id;
    let namespaces = namespaces::list(db, account_id).await?;
    let names = namespaces.iter().map(|namespace| &namespace.name);
    let namespace = Some(query.namespace.as_str()).filter(|name| !name.is_empty());
    if namespace.is_some_and(|name| names.clone().all(|known| known != name)) {
        return Err(WebError::NotFound);
    }
    // No name has a NUL in it, and PostgreSQL takes none.
    if query.after_namespace.contains('\0') || query.after_name.contains('\0') {
        return Err(WebError::BadRequest);
    }
    let is_first = query.after_namespace.is_empty();
    let after = (!is_first).then_some((
        query.after_namespace.as_str(),
        query.after_name.as_str(),
        query.after_token,
    ));
    let locks = store::list_live(db, account_id, namespace, after, FETCHED_ROWS).await?;
    let choices = names.map(|name| Choice::new(name, name));
    let choices = std::iter::once(Choice::new("", "All")).chain(choices);
    let field = Field::select("namespace", "Namespace", choices);
    let url = ListUrl::by_name("/account/locks").filter("namespace", namespace);
    let form = url.form();
    render(&LocksPage {
        page: current.page("Live locks", Tab::Locks).await?,
        filter: (namespaces.len() > 1).then(|| form.field(field)),
        locks: url.page(is_first, locks, |last| {
            vec![
                ("after_namespace", last.namespace.clone()),
                ("after_name", last.name.clone()),
                ("after_token", last.fencing_token.to_string()),
            ]
        }),
        namespace: query.namespace,
    })
}

/// A lease, as the list showed it, and the reason to break it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BreakForm {
    namespace: String,
    name: String,
    fencing_token: String,
    reason: String,
}

impl BreakForm {
    /// The namespace, the name and the fencing token, if the list could have shown them.
    async fn parse(
        &self,
        web: &Web,
        current: &CurrentAccount,
    ) -> Result<(Namespace, LockName, i64), WebError> {
        let fencing_token = self
            .fencing_token
            .parse()
            .map_err(|_| WebError::BadRequest)?;
        let name = LockName::new(&self.name).map_err(|_| WebError::BadRequest)?;
        let account_id = current.account.account_id;
        let namespace = namespaces::find(&web.app.db, account_id, &self.namespace).await?;
        Ok((namespace, name, fencing_token))
    }
}

#[derive(Template)]
#[template(path = "account/lock_break.html")]
struct BreakPage {
    page: Page,
    form: FormState,
    lease: BreakForm,
    fencing_token: String,
    reason: Field,
}

async fn show_break_form(
    current: &CurrentAccount,
    lease: BreakForm,
    fencing_token: i64,
    form: FormState,
) -> Result<Response, WebError> {
    let page = BreakPage {
        page: current.page(form.title("Break a lock"), Tab::Locks).await?,
        fencing_token: grouped(fencing_token),
        reason: form.field(Field::reason("Stands in the audit log.")),
        form,
        lease,
    };
    render_as(page.form.status(), &page)
}

pub(crate) async fn show_break(
    State(web): State<Web>,
    current: CurrentAccount,
    Query(lease): Query<BreakForm>,
) -> Result<Response, WebError> {
    let (_, _, fencing_token) = lease.parse(&web, &current).await?;
    show_break_form(&current, lease, fencing_token, FormState::new("break")).await
}

pub(crate) async fn break_lock(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(submitted): Form<BreakForm>,
) -> Result<Response, WebError> {
    let (namespace, name, fencing_token) = submitted.parse(&web, &current).await?;
    let result = locks::break_own(
        &web.app.db,
        &current.actor(),
        current.account.account_id,
        (namespace.namespace_id, &namespace.name),
        &name,
        fencing_token,
        &submitted.reason,
    )
    .await;
    let flash = match result {
        Ok(()) => Flash::ok(format!(
            "The lock {name} is broken: free, or held by who waited first. Its holder is told so \
             at its next heartbeat."
        )),
        Err(BreakError::NotHeld) => Flash::warn(format!(
            "Nothing was broken: the lease of {name} that you saw has ended by itself."
        )),
        Err(BreakError::InvalidReason(error)) => {
            let form = FormState::new("break").with("reason", &submitted.reason);
            let form = form.rejected("reason", error);
            return show_break_form(&current, submitted, fencing_token, form).await;
        }
        Err(BreakError::Database(error)) => return Err(error.into()),
    };
    current.redirect("/account/locks", flash).await
}

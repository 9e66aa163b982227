//! `/account/locks`: what the account holds right now, and breaking it.

use askama::Template;
use axum::Form;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::id::NamespaceId;
use crate::locks::store::{self, LiveLock};
use crate::locks::{self, BreakError, LockName};
use crate::namespaces;
use crate::text::sentence;
use crate::web::Web;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::ui::field::{Choice, Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, grouped, render, render_as};
use crate::web::ui::time::When;

/// Locks on a page.
const PAGE: usize = 50;

struct Row {
    namespace: String,
    name: String,
    token: String,
    holder: String,
    fencing_token: i64,
    acquired: When,
    remaining_ms: i64,
    remaining: String,
    break_address: String,
}

impl From<LiveLock> for Row {
    fn from(lock: LiveLock) -> Self {
        let seen = [
            ("namespace", lock.namespace.as_str()),
            ("name", &lock.name),
            ("fencing_token", &lock.fencing_token.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            break_address: address("/account/locks/break", &seen),
            token: lock.token_label.unwrap_or_default(),
            holder: lock.holder.unwrap_or_default(),
            fencing_token: lock.fencing_token,
            acquired: When::new(lock.acquired_at),
            remaining_ms: lock.remaining_ms,
            remaining: remaining(lock.remaining_ms),
            namespace: lock.namespace,
            name: lock.name,
        }
    }
}

pub(crate) fn address(path: &str, parameters: &[(String, String)]) -> String {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    }
}

/// A remaining time for people, as the page's script writes it too: `59 s`, `4 min 30 s`, `2 h 5
/// min`.
fn remaining(ms: i64) -> String {
    match ms / 1000 {
        // What outlives its end by the grace after an outage.
        0 if ms == 0 => "in grace".to_owned(),
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[derive(Template)]
#[template(path = "account/locks.html")]
struct LocksPage {
    page: Page,
    locks: Vec<Row>,
    filter: Option<Field>,
    namespace: String,
    is_first: bool,
    first_address: String,
    next_address: Option<String>,
}

/// Which locks to show.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Filter {
    namespace: String,
    after_namespace: String,
    after_name: String,
}

pub(crate) async fn list(
    State(web): State<Web>,
    current: CurrentAccount,
    Query(filter): Query<Filter>,
) -> Result<Response, WebError> {
    let db = &web.app.db;
    let account_id = current.account.account_id;
    let namespaces = namespaces::list(db, account_id).await?;
    let namespace = Some(filter.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    if namespace.is_some_and(|namespace| namespaces.iter().all(|known| known.name != namespace)) {
        return Err(WebError::NotFound);
    }
    let is_first = filter.after_namespace.is_empty();
    // No name has a NUL in it, and the database takes none.
    if filter.after_namespace.contains('\0') || filter.after_name.contains('\0') {
        return Err(WebError::BadRequest);
    }
    let after =
        (!is_first).then_some((filter.after_namespace.as_str(), filter.after_name.as_str()));
    // One more than the page shows says whether there is another.
    let limit = i64::try_from(PAGE + 1).expect("a page is short");
    let mut locks = store::list_live(db, account_id, namespace, after, limit).await?;
    let more = locks.len() > PAGE;
    locks.truncate(PAGE);
    let kept: Vec<_> = namespace
        .map(|namespace| ("namespace".to_owned(), namespace.to_owned()))
        .into_iter()
        .collect();
    let next_address = locks.last().filter(|_| more).map(|last| {
        let mut parameters = kept.clone();
        parameters.push(("after_namespace".to_owned(), last.namespace.clone()));
        parameters.push(("after_name".to_owned(), last.name.clone()));
        address("/account/locks", &parameters)
    });
    let filter_field = (namespaces.len() > 1).then(|| {
        let all = std::iter::once(Choice::new("", "All"));
        let choices = all
            .chain(
                namespaces
                    .iter()
                    .map(|known| Choice::new(&known.name, &known.name)),
            )
            .collect();
        Field::select("namespace", "Namespace", choices).value(&filter.namespace)
    });
    render(&LocksPage {
        page: current.page("Live locks", Tab::Locks).await?,
        locks: locks.into_iter().map(Row::from).collect(),
        filter: filter_field,
        namespace: filter.namespace,
        is_first,
        first_address: address("/account/locks", &kept),
        next_address,
    })
}

/// A lease as it was seen in the list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BreakForm {
    namespace: String,
    name: String,
    fencing_token: String,
    reason: String,
}

#[derive(Template)]
#[template(path = "account/lock_break.html")]
struct BreakPage {
    page: Page,
    namespace: String,
    name: String,
    fencing_token: String,
    fencing: String,
    problems: Problems,
    reason: Field,
}

pub(crate) fn reason_field(typed: &str, problems: &Problems) -> Field {
    Field::lines("reason", "Reason")
        .value(typed)
        .hint("Stands in the audit log.")
        .attribute("maxlength", "500")
        .of(problems)
}

/// What the form means: the namespace's row, the name, the fencing token.
async fn read(
    web: &Web,
    current: &CurrentAccount,
    form: &BreakForm,
) -> Result<(NamespaceId, LockName, i64), WebError> {
    let fencing_token = form
        .fencing_token
        .parse()
        .map_err(|_| WebError::BadRequest)?;
    let name = LockName::new(&form.name).map_err(|_| WebError::BadRequest)?;
    let namespace =
        namespaces::find(&web.app.db, current.account.account_id, &form.namespace).await?;
    Ok((namespace.namespace_id, name, fencing_token))
}

async fn break_page(
    current: &CurrentAccount,
    form: BreakForm,
    problems: Problems,
) -> Result<BreakPage, WebError> {
    Ok(BreakPage {
        page: current
            .page(problems.title("Break a lock"), Tab::Locks)
            .await?,
        fencing: form
            .fencing_token
            .parse()
            .map_or_else(|_| String::new(), |token: i64| grouped(token)),
        reason: reason_field(&form.reason, &problems),
        namespace: form.namespace,
        name: form.name,
        fencing_token: form.fencing_token,
        problems,
    })
}

pub(crate) async fn break_form(
    State(web): State<Web>,
    current: CurrentAccount,
    Query(form): Query<BreakForm>,
) -> Result<Response, WebError> {
    read(&web, &current, &form).await?;
    render(
        &break_page(
            &current,
            BreakForm {
                reason: String::new(),
                ..form
            },
            Problems::of("break-"),
        )
        .await?,
    )
}

pub(crate) async fn break_lock(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(form): Form<BreakForm>,
) -> Result<Response, WebError> {
    let (namespace_id, name, fencing_token) = read(&web, &current, &form).await?;
    let outcome = locks::break_own(
        &web.app.db,
        &current.actor(),
        current.account.account_id,
        (namespace_id, &form.namespace),
        &name,
        fencing_token,
        &form.reason,
    )
    .await;
    let flash = match outcome {
        Ok(()) => Flash::ok(format!(
            "The lock {name} is broken and free. Its holder is told so at its next heartbeat."
        )),
        Err(BreakError::NotHeld) => Flash::warn(format!(
            "Nothing was broken: the lease of {name} that you saw has ended by itself."
        )),
        Err(BreakError::InvalidReason(error)) => {
            let problems = Problems::one("break-", "reason", sentence(&error));
            return render_as(
                StatusCode::UNPROCESSABLE_ENTITY,
                &break_page(&current, form, problems).await?,
            );
        }
        Err(error) => return Err(error.into()),
    };
    current.flash(flash).await?;
    Ok(Redirect::to("/account/locks").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_times_are_readable() {
        assert_eq!(remaining(59_900), "59 s");
        assert_eq!(remaining(270_000), "4 min 30 s");
        assert_eq!(remaining(7_500_000), "2 h 5 min");
        assert_eq!(remaining(400), "0 s");
        assert_eq!(remaining(0), "in grace");
    }

    #[test]
    fn a_name_survives_its_address() {
        let pairs = [("name".to_owned(), "a b&c=d/ü".to_owned())];
        assert_eq!(address("/x", &pairs), "/x?name=a+b%26c%3Dd%2F%C3%BC");
        assert_eq!(address("/x", &[]), "/x");
    }
}

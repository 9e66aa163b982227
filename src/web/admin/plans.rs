//! `/admin/plans`: what accounts may do.

use std::collections::HashMap;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};

use crate::plans::{self, LEASE_CEILING_MS, LEASE_FLOOR_MS, Limits, Plan, PlanError};
use crate::text::sentence;
use crate::web::Web;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, RequireAdmin};
use crate::web::ui::field::{Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, duration, grouped, render, render_as};

/// What a form on a plan sends, by field.
type Sent = HashMap<String, String>;

struct Row {
    code: String,
    name: String,
    lease: String,
    max_private_namespaces: String,
    max_tokens: String,
    max_live_locks: String,
    max_waiters: String,
    requests_per_second: String,
    accounts: String,
}

impl From<Plan> for Row {
    fn from(plan: Plan) -> Self {
        let limits = plan.limits;
        Self {
            lease: if limits.lease_is_configurable() {
                let default = duration(limits.lease_default_ms);
                format!(
                    "{default} ({} to {})",
                    duration(limits.lease_min_ms),
                    duration(limits.lease_max_ms)
                )
            } else {
                format!("{}, fixed", duration(limits.lease_default_ms))
            },
            code: plan.code,
            name: limits.name,
            max_private_namespaces: grouped(limits.max_private_namespaces),
            max_tokens: grouped(limits.max_tokens),
            max_live_locks: grouped(limits.max_live_locks),
            max_waiters: grouped(limits.max_waiters),
            requests_per_second: grouped(limits.requests_per_second),
            accounts: grouped(plan.accounts),
        }
    }
}

#[derive(Template)]
#[template(path = "admin/plans.html")]
struct PlansPage {
    page: Page,
    plans: Vec<Row>,
}

pub(crate) async fn list(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
) -> Result<Response, WebError> {
    let plans = plans::list(&web.app.db).await?;
    let page = current.page("Plans", Tab::AdminPlans).await?;
    render(&PlansPage {
        page,
        plans: plans.into_iter().map(Row::from).collect(),
    })
}

/// A number of a plan: its field, what it is called, what helps.
struct Number {
    field: &'static str,
    label: &'static str,
    hint: &'static str,
    of: fn(&mut Limits) -> &mut i32,
}

const NUMBERS: [Number; 8] = [
    Number {
        field: "lease_min_ms",
        label: "Shortest lease, milliseconds",
        hint: "The same as the longest: the lease is fixed.",
        of: |limits| &mut limits.lease_min_ms,
    },
    Number {
        field: "lease_default_ms",
        label: "Default lease, milliseconds",
        hint: "Where neither account, namespace nor request says otherwise.",
        of: |limits| &mut limits.lease_default_ms,
    },
    Number {
        field: "lease_max_ms",
        label: "Longest lease, milliseconds",
        hint: "At most 86,400,000: a day.",
        of: |limits| &mut limits.lease_max_ms,
    },
    Number {
        field: "max_private_namespaces",
        label: "Private namespaces",
        hint: "0: the public one only.",
        of: |limits| &mut limits.max_private_namespaces,
    },
    Number {
        field: "max_tokens",
        label: "API tokens",
        hint: "",
        of: |limits| &mut limits.max_tokens,
    },
    Number {
        field: "max_live_locks",
        label: "Live locks",
        hint: "Held at once.",
        of: |limits| &mut limits.max_live_locks,
    },
    Number {
        field: "max_waiters",
        label: "Waiting requests",
        hint: "In line at once.",
        of: |limits| &mut limits.max_waiters,
    },
    Number {
        field: "requests_per_second",
        label: "Requests a second",
        hint: "On each node, with a burst of twice as many.",
        of: |limits| &mut limits.requests_per_second,
    },
];

/// What a new plan's form begins with.
fn modest() -> Limits {
    Limits {
        name: String::new(),
        lease_min_ms: LEASE_FLOOR_MS,
        lease_default_ms: 60_000,
        lease_max_ms: LEASE_CEILING_MS,
        max_private_namespaces: 5,
        max_tokens: 20,
        max_live_locks: 100_000,
        max_waiters: 1000,
        requests_per_second: 5000,
    }
}

/// The fields' values as a form sends them.
fn values(limits: &Limits) -> Sent {
    let mut limits = limits.clone();
    let mut sent: Sent = NUMBERS
        .iter()
        .map(|number| {
            (
                number.field.to_owned(),
                (number.of)(&mut limits).to_string(),
            )
        })
        .collect();
    sent.insert("name".to_owned(), limits.name);
    sent
}

fn at<'a>(sent: &'a Sent, field: &str) -> &'a str {
    sent.get(field).map_or("", String::as_str)
}

/// Reads what differs from `was` into `limits`: two administrators who edit different fields at
/// once are both heard.
fn read(
    sent: &Sent,
    was: impl Fn(&str) -> Option<String>,
    limits: &mut Limits,
    problems: &mut Problems,
) {
    let changed = |field: &str| was(field).is_none_or(|was| was != at(sent, field));
    if changed("name") {
        at(sent, "name").trim().clone_into(&mut limits.name);
    }
    for number in NUMBERS.iter().filter(|number| changed(number.field)) {
        let digits: String = at(sent, number.field)
            .chars()
            .filter(|c| !matches!(c, ',' | ' ' | '\u{a0}' | '_'))
            .collect();
        match digits.parse() {
            Ok(value) => *(number.of)(limits) = value,
            Err(_) => problems.add(
                number.field,
                format!("{}: enter a whole number.", number.label),
            ),
        }
    }
}

#[derive(Template)]
#[template(path = "admin/plan.html")]
struct PlanPage {
    page: Page,
    heading: String,
    /// None: a new plan.
    code: Option<String>,
    accounts: String,
    action: String,
    problems: Problems,
    code_field: Field,
    name: Field,
    leases: Vec<Field>,
    limits: Vec<Field>,
    was: Vec<(String, String)>,
}

fn plan_page(
    page: Page,
    plan: Option<&Plan>,
    sent: &Sent,
    was: &Sent,
    problems: Problems,
) -> PlanPage {
    let field = |number: &Number| {
        Field::number(number.field, number.label)
            .value(at(sent, number.field))
            .hint(number.hint)
            .of(&problems)
    };
    let (leases, limits) = NUMBERS.split_at(3);
    let mut was: Vec<_> = was
        .iter()
        .map(|(field, value)| (format!("was_{field}"), value.clone()))
        .collect();
    was.sort();
    PlanPage {
        page,
        heading: plan.map_or_else(|| "New plan".to_owned(), |plan| format!("Plan {}", plan.limits.name)),
        code: plan.map(|plan| plan.code.clone()),
        accounts: plan.map(|plan| grouped(plan.accounts)).unwrap_or_default(),
        action: plan.map_or_else(|| "/admin/plans".to_owned(), |plan| format!("/admin/plans/{}/edit", plan.code)),
        code_field: Field::text("code", "Code")
            .value(at(sent, "code"))
            .hint("What commands and addresses name it by: 1 to 63 of a-z, 0-9 and -. It never changes.")
            .attribute("maxlength", "63")
            .attribute("autocapitalize", "none")
            .autocomplete("off")
            .of(&problems),
        name: Field::text("name", "Name")
            .value(at(sent, "name"))
            .hint("What people read.")
            .attribute("maxlength", "100")
            .autocomplete("off")
            .of(&problems),
        leases: leases.iter().map(field).collect(),
        limits: limits.iter().map(field).collect(),
        was,
        problems,
    }
}

pub(crate) async fn new_form(RequireAdmin(current): RequireAdmin) -> Result<Response, WebError> {
    let page = current.page("New plan", Tab::AdminPlans).await?;
    render(&plan_page(
        page,
        None,
        &values(&modest()),
        &Sent::new(),
        Problems::of("plan-"),
    ))
}

async fn back(
    current: &CurrentAccount,
    plan: Option<&Plan>,
    sent: &Sent,
    was: &Sent,
    problems: Problems,
) -> Result<Response, WebError> {
    let title = plan.map_or_else(
        || "New plan".to_owned(),
        |plan| format!("Plan {}", plan.limits.name),
    );
    let page = current
        .page(problems.title(&title), Tab::AdminPlans)
        .await?;
    render_as(
        StatusCode::UNPROCESSABLE_ENTITY,
        &plan_page(page, plan, sent, was, problems),
    )
}

/// A refusal of the noun, next to its field; anything else is no matter of the form.
fn note(error: PlanError, problems: &mut Problems) -> Result<(), WebError> {
    match error {
        PlanError::Invalid(invalid) => problems.add(invalid.field, sentence(&invalid.problem)),
        error @ (PlanError::InvalidCode | PlanError::Taken(_)) => {
            problems.add("code", sentence(&error));
        }
        error @ (PlanError::Unknown(_) | PlanError::Database(_)) => return Err(error.into()),
    }
    Ok(())
}

pub(crate) async fn create(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Form(sent): Form<Sent>,
) -> Result<Response, WebError> {
    let mut problems = Problems::of("plan-");
    let mut limits = modest();
    read(&sent, |_| None, &mut limits, &mut problems);
    if problems.is_empty() {
        match plans::create(&web.app.db, &current.actor(), at(&sent, "code"), &limits).await {
            Ok(()) => {
                current
                    .flash(Flash::ok(format!("The plan {} is there.", limits.name)))
                    .await?;
                return Ok(Redirect::to("/admin/plans").into_response());
            }
            Err(error) => note(error, &mut problems)?,
        }
    }
    back(&current, None, &sent, &Sent::new(), problems).await
}

async fn find(web: &Web, code: &str) -> Result<Plan, WebError> {
    Ok(plans::find(&web.app.db, code).await?)
}

pub(crate) async fn edit_form(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(code): Path<String>,
) -> Result<Response, WebError> {
    let plan = find(&web, &code).await?;
    let page = current
        .page(format!("Plan {}", plan.limits.name), Tab::AdminPlans)
        .await?;
    let values = values(&plan.limits);
    render(&plan_page(
        page,
        Some(&plan),
        &values,
        &values,
        Problems::of("plan-"),
    ))
}

pub(crate) async fn edit(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(code): Path<String>,
    Form(sent): Form<Sent>,
) -> Result<Response, WebError> {
    let plan = find(&web, &code).await?;
    let was = |field: &str| sent.get(&format!("was_{field}")).cloned();
    let mut problems = Problems::of("plan-");
    // Once to find what cannot be read, before anything is locked.
    read(&sent, was, &mut plan.limits.clone(), &mut problems);
    if problems.is_empty() {
        let edit = |limits: &mut Limits| read(&sent, was, limits, &mut Problems::default());
        match plans::update(&web.app.db, &current.actor(), &code, edit).await {
            Ok(limits) => {
                let done = format!(
                    "Saved. {} works so on every node within a second.",
                    limits.name
                );
                current.flash(Flash::ok(done)).await?;
                return Ok(Redirect::to("/admin/plans").into_response());
            }
            Err(error) => note(error, &mut problems)?,
        }
    }
    let was = sent
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("was_")?.to_owned(), value.clone())))
        .collect();
    back(&current, Some(&plan), &sent, &was, problems).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_edited_is_changed() {
        let mut limits = modest();
        let seen = values(&limits);
        let mut sent = seen.clone();
        sent.insert("max_tokens".to_owned(), "1,000".to_owned());
        // Somebody else has raised this in the meantime.
        limits.max_waiters = 77;
        let mut problems = Problems::default();
        read(
            &sent,
            |field| seen.get(field).cloned(),
            &mut limits,
            &mut problems,
        );
        assert!(problems.is_empty());
        assert_eq!((limits.max_tokens, limits.max_waiters), (1000, 77));
        sent.insert("max_tokens".to_owned(), "many".to_owned());
        read(
            &sent,
            |field| seen.get(field).cloned(),
            &mut limits,
            &mut problems,
        );
        assert!(problems.at("max_tokens").is_some() && limits.max_tokens == 1000);
    }
}

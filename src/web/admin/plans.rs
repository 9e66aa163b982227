//! `/admin/plans`: the plans and their limits.

use std::collections::HashMap;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::response::Response;

use crate::plans::{self, LEASE_CEILING_MS, LEASE_FLOOR_MS, Limits, Plan, PlanError};
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, RequireAdmin};
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::{FormState, without_separators};
use crate::web::ui::limits::LimitsView;
use crate::web::ui::number::grouped;
use crate::web::ui::page::{Flash, Page, Tab, render, render_as};

#[derive(Template)]
#[template(path = "admin/plans.html")]
struct PlansPage {
    page: Page,
    plans: Vec<Row>,
}

struct Row {
    code: String,
    limits: LimitsView,
    accounts: String,
}

impl From<Plan> for Row {
    fn from(plan: Plan) -> Self {
        Self {
            limits: LimitsView::of_plan(&plan.limits),
            accounts: grouped(plan.accounts),
            code: plan.code,
        }
    }
}

pub(crate) async fn list(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
) -> Result<Response, WebError> {
    let plans = plans::list(&web.app.db).await?;
    render(&PlansPage {
        page: current.page("Plans", Tab::AdminPlans).await?,
        plans: plans.into_iter().map(Row::from).collect(),
    })
}

/// A number among the limits of a plan, and its field.
struct Number {
    field: &'static str,
    label: &'static str,
    hint: &'static str,
    of: fn(&mut Limits) -> &mut i32,
}

const NUMBERS: [Number; 9] = [
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
        hint: "Of an account on each node, in line at once.",
        of: |limits| &mut limits.max_waiters,
    },
    Number {
        field: "requests_per_second",
        label: "Requests a second",
        hint: "On each node, with a burst of twice as many.",
        of: |limits| &mut limits.requests_per_second,
    },
    Number {
        field: "history_days",
        label: "Days of history",
        hint: "Of locks in private namespaces. 0: none.",
        of: |limits| &mut limits.history_days,
    },
];

/// The limits that the form of a new plan begins with.
fn initial_limits() -> Limits {
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
        history_days: 7,
    }
}

/// The values of a form, by field.
type Values = HashMap<String, String>;

/// The values of the fields for these limits. The form of an existing plan also carries each as
/// `was_…`: the value that its reader saw.
fn values_of(limits: &Limits) -> Values {
    let mut limits = limits.clone();
    let mut values: Values = NUMBERS
        .iter()
        .map(|number| {
            let value = (number.of)(&mut limits).to_string();
            (number.field.to_owned(), value)
        })
        .collect();
    values.insert("name".to_owned(), limits.name);
    values
}

/// Applies the values of a form that differ from those that its reader saw, so that of two
/// administrators who edit different fields at once both succeed. Rejects the form where a number
/// is none.
fn apply(form: &mut FormState, limits: &mut Limits) {
    let is_changed = |form: &FormState, field: &str| {
        form.get(&format!("was_{field}")) != Some(form.value(field))
    };
    if is_changed(form, "name") {
        form.value("name").trim().clone_into(&mut limits.name);
    }
    for number in &NUMBERS {
        if !is_changed(form, number.field) {
            continue;
        }
        let digits = without_separators(form.value(number.field)).replace('_', "");
        match digits.parse() {
            Ok(value) => *(number.of)(limits) = value,
            Err(_) => form.reject(
                number.field,
                format!("{}: enter a whole number", number.label),
            ),
        }
    }
}

#[derive(Template)]
#[template(path = "admin/plan.html")]
struct PlanPage {
    page: Page,
    heading: String,
    /// `None` for a new plan.
    plan: Option<Row>,
    action: String,
    form: FormState,
    code: Field,
    name: Field,
    leases: Vec<Field>,
    limits: Vec<Field>,
    /// Names and values of the hidden fields.
    was: Vec<(String, String)>,
}

async fn show_form(
    current: &CurrentAccount,
    plan: Option<Plan>,
    form: FormState,
) -> Result<Response, WebError> {
    let (heading, action) = match &plan {
        Some(plan) => (
            format!("Plan {}", plan.limits.name),
            format!("/admin/plans/{}/edit", plan.code),
        ),
        None => ("New plan".to_owned(), "/admin/plans".to_owned()),
    };
    let code = Field::identifier("code", "Code")
        .hint(
            "What commands and addresses name it by: 1 to 63 of a-z, 0-9 and -. It never changes.",
        )
        .attribute("maxlength", "63");
    let name = Field::text("name", "Name")
        .hint("What people read.")
        .attribute("maxlength", "100")
        .autocomplete("off");
    let number =
        |number: &Number| form.field(Field::number(number.field, number.label).hint(number.hint));
    let (leases, limits) = NUMBERS.split_at(3);
    let page = PlanPage {
        page: current.page(form.title(&heading), Tab::AdminPlans).await?,
        heading,
        plan: plan.map(Row::from),
        action,
        code: form.field(code),
        name: form.field(name),
        leases: leases.iter().map(number).collect(),
        limits: limits.iter().map(number).collect(),
        was: form.values_with_prefix("was_"),
        form,
    };
    render_as(page.form.status(), &page)
}

/// Shows an error of the noun next to its field, if the form can show it.
fn reject(form: FormState, error: PlanError) -> Result<FormState, WebError> {
    match error {
        PlanError::Invalid(invalid) => Ok(form.rejected(invalid.field, invalid.problem)),
        PlanError::InvalidCode | PlanError::Taken(_) => Ok(form.rejected("code", error)),
        PlanError::Unknown(_) | PlanError::Database(_) => Err(error.into()),
    }
}

fn plan_form(values: Values) -> FormState {
    FormState::new("plan").with_all(values)
}

pub(crate) async fn show_new(RequireAdmin(current): RequireAdmin) -> Result<Response, WebError> {
    show_form(&current, None, plan_form(values_of(&initial_limits()))).await
}

pub(crate) async fn create(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Form(submitted): Form<Values>,
) -> Result<Response, WebError> {
    let mut form = plan_form(submitted);
    let mut limits = initial_limits();
    apply(&mut form, &mut limits);
    if form.is_rejected() {
        return show_form(&current, None, form).await;
    }
    match plans::create(&web.app.db, &current.actor(), form.value("code"), &limits).await {
        Ok(()) => {
            let flash = Flash::ok(format!("The plan {} is there.", limits.name));
            current.redirect("/admin/plans", flash).await
        }
        Err(error) => show_form(&current, None, reject(form, error)?).await,
    }
}

pub(crate) async fn show(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(code): Path<String>,
) -> Result<Response, WebError> {
    let plan = plans::find(&web.app.db, &code).await?;
    let mut values = values_of(&plan.limits);
    for (field, value) in values.clone() {
        values.insert(format!("was_{field}"), value);
    }
    show_form(&current, Some(plan), plan_form(values)).await
}

pub(crate) async fn edit(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(code): Path<String>,
    Form(submitted): Form<Values>,
) -> Result<Response, WebError> {
    let plan = plans::find(&web.app.db, &code).await?;
    let mut form = plan_form(submitted);
    // A first time to find the numbers that are none, before the plan is locked.
    apply(&mut form, &mut plan.limits.clone());
    if form.is_rejected() {
        return show_form(&current, Some(plan), form).await;
    }
    let edit = |limits: &mut Limits| apply(&mut form.clone(), limits);
    match plans::update(&web.app.db, &current.actor(), &code, edit).await {
        Ok(limits) => {
            let flash = Flash::ok(format!(
                "Saved. {} works so on every node within a second.",
                limits.name
            ));
            current.redirect("/admin/plans", flash).await
        }
        Err(error) => show_form(&current, Some(plan), reject(form, error)?).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_edited_limits_are_changed() {
        let mut limits = initial_limits();
        let mut values = values_of(&limits);
        for (field, value) in values.clone() {
            values.insert(format!("was_{field}"), value);
        }
        values.insert("max_tokens".to_owned(), "1,000".to_owned());
        // Another administrator has raised this in the meantime.
        limits.max_waiters = 77;
        let mut form = plan_form(values);
        apply(&mut form, &mut limits);
        assert!(!form.is_rejected());
        assert_eq!((limits.max_tokens, limits.max_waiters), (1000, 77));
        let mut form = form.with("max_tokens", "many");
        apply(&mut form, &mut limits);
        assert!(form.problem("max_tokens").is_some());
        assert_eq!(limits.max_tokens, 1000);
    }
}

//! `/admin/accounts`: finding accounts, and what administrators do to them.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::audit::{Line, page_of};
use super::searched;
use crate::accounts::{self, Account, AccountError, store::Filter};
use crate::audit;
use crate::id::AccountId;
use crate::locks;
use crate::namespaces;
use crate::plans::{self, Plan};
use crate::text::sentence;
use crate::tokens;
use crate::web::Web;
use crate::web::account::locks::address;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, RequireAdmin};
use crate::web::ui::field::{Choice, Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, grouped, render, render_as};
use crate::web::ui::time::When;

/// Accounts on a page.
const PAGE: usize = 50;
/// Lines of the audit log on an account's page.
const AUDIT: usize = 10;

struct Row {
    id: AccountId,
    email: String,
    plan: String,
    is_admin: bool,
    is_suspended: bool,
    is_verified: bool,
    created: When,
}

impl From<&Account> for Row {
    fn from(account: &Account) -> Self {
        Self {
            id: account.account_id,
            email: account.email.clone(),
            plan: account.limits.name.clone(),
            is_admin: account.is_admin,
            is_suspended: account.suspended_at.is_some(),
            is_verified: account.email_verified_at.is_some(),
            created: When::new(account.created_at),
        }
    }
}

#[derive(Template)]
#[template(path = "admin/accounts.html")]
struct AccountsPage {
    page: Page,
    search: Field,
    plan: Field,
    is_filtered: bool,
    accounts: Vec<Row>,
    is_first: bool,
    first_address: String,
    next_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    q: String,
    plan: String,
    before: String,
}

fn plan_choices(plans: &[Plan]) -> impl Iterator<Item = Choice> + '_ {
    plans
        .iter()
        .map(|plan| Choice::new(&plan.code, &plan.limits.name))
}

pub(crate) async fn list(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Query(asked): Query<Asked>,
) -> Result<Response, WebError> {
    let plans = plans::list(&web.app.db).await?;
    let filter = Filter {
        text: searched(&asked.q),
        plan: searched(&asked.plan),
        before_id: match asked.before.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| WebError::BadRequest)?),
        },
        ..Filter::default()
    };
    // One more than the page shows says whether there is another.
    let mut found = accounts::search(
        &web.app.db,
        &filter,
        i64::try_from(PAGE + 1).expect("a page is short"),
    )
    .await?;
    let more = found.len() > PAGE;
    found.truncate(PAGE);
    let kept: Vec<_> = [("q", &filter.text), ("plan", &filter.plan)]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
        .collect();
    let next_address = found.last().filter(|_| more).map(|last| {
        let mut parameters = kept.clone();
        parameters.push(("before".to_owned(), last.account_id.to_string()));
        address("/admin/accounts", &parameters)
    });
    let all_plans = std::iter::once(Choice::new("", "Any plan"))
        .chain(plan_choices(&plans))
        .collect();
    render(&AccountsPage {
        page: current.page("Accounts", Tab::AdminAccounts).await?,
        search: Field::search("q", "E-mail address").value(asked.q),
        plan: Field::select("plan", "Plan", all_plans).value(asked.plan),
        is_filtered: filter.text.is_some() || filter.plan.is_some(),
        is_first: filter.before_id.is_none(),
        accounts: found.iter().map(Row::from).collect(),
        first_address: address("/admin/accounts", &kept),
        next_address,
    })
}

#[derive(Template)]
#[template(path = "admin/account.html")]
struct AccountPage {
    page: Page,
    account: Row,
    suspended: Option<(When, String)>,
    is_self: bool,
    namespaces: String,
    tokens: String,
    live_locks: String,
    plan: Field,
    problems: Problems,
    reason: Field,
    sure: Field,
    lines: Vec<Line>,
    more_lines: bool,
}

/// A form that comes back.
struct Back {
    status: StatusCode,
    reason: String,
    problems: Problems,
}

impl Default for Back {
    fn default() -> Self {
        Self {
            status: StatusCode::OK,
            reason: String::new(),
            problems: Problems::of("account-"),
        }
    }
}

async fn find(web: &Web, account_id: &str) -> Result<Account, WebError> {
    let account_id: AccountId = account_id.parse().map_err(|_| WebError::NotFound)?;
    Ok(accounts::find(&web.app.db, account_id).await?)
}

async fn show_with(
    web: &Web,
    current: &CurrentAccount,
    account: &Account,
    back: Back,
) -> Result<Response, WebError> {
    let db = &web.app.db;
    let account_id = account.account_id;
    let plans = plans::list(db).await?;
    let filter = audit::store::Filter {
        subject_account_id: Some(account_id),
        ..audit::store::Filter::default()
    };
    let (lines, more) = page_of(web, &filter, AUDIT).await?;
    let of = |count: usize, max: i32| {
        format!(
            "{} of {}",
            grouped(i64::try_from(count).unwrap_or(i64::MAX)),
            grouped(max)
        )
    };
    let limits = &account.limits;
    let tokens = tokens::list(db, account_id)
        .await?
        .into_iter()
        .filter(|token| !token.expired)
        .count();
    let private = namespaces::list(db, account_id)
        .await?
        .len()
        .saturating_sub(1);
    let live_locks = locks::store::count_live(db, account_id).await?;
    let page = AccountPage {
        page: current
            .page(back.problems.title(&account.email), Tab::AdminAccounts)
            .await?,
        account: Row::from(account),
        suspended: account.suspended_at.map(|at| {
            (
                When::new(at),
                account.suspended_reason.clone().unwrap_or_default(),
            )
        }),
        is_self: account_id == current.account.account_id,
        namespaces: of(private, limits.max_private_namespaces),
        tokens: of(tokens, limits.max_tokens),
        live_locks: format!(
            "{} of {}",
            grouped(live_locks),
            grouped(limits.max_live_locks)
        ),
        plan: Field::select("plan", "Plan", plan_choices(&plans).collect())
            .value(&account.plan)
            .of(&back.problems),
        reason: Field::lines("reason", "Reason")
            .value(back.reason)
            .hint("Its owner reads it when signing in, and it stands in the audit log.")
            .attribute("maxlength", "500")
            .of(&back.problems),
        sure: Field::check(
            "sure",
            format!("{} may manage every account and plan", account.email),
        )
        .of(&back.problems),
        problems: back.problems,
        lines,
        more_lines: more.is_some(),
    };
    render_as(back.status, &page)
}

pub(crate) async fn show(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(account_id): Path<String>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    show_with(&web, &current, &account, Back::default()).await
}

/// To the account's page, with what was done; an act that had been done already is no mistake of
/// the form.
async fn done(
    current: &CurrentAccount,
    account: &Account,
    outcome: Result<(), AccountError>,
    sentence_done: String,
) -> Result<Response, WebError> {
    let flash = match outcome {
        Ok(()) => Flash::ok(sentence_done),
        Err(refused @ AccountError::Already(_)) => Flash::warn(sentence(&refused)),
        Err(refused @ AccountError::Yourself) => Flash::error(sentence(&refused)),
        Err(error) => return Err(error.into()),
    };
    current.flash(flash).await?;
    Ok(to_page(account))
}

fn to_page(account: &Account) -> Response {
    Redirect::to(&format!("/admin/accounts/{}", account.account_id)).into_response()
}

async fn refused(
    web: &Web,
    current: &CurrentAccount,
    account: &Account,
    (field, sentence): (&'static str, String),
    reason: String,
) -> Result<Response, WebError> {
    let problems = Problems::one("account-", field, sentence);
    show_with(
        web,
        current,
        account,
        Back {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            reason,
            problems,
        },
    )
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PlanForm {
    plan: String,
}

pub(crate) async fn set_plan(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(account_id): Path<String>,
    Form(form): Form<PlanForm>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    let unknown = ("plan", "Choose one of the plans in the list.".to_owned());
    if form.plan == account.plan {
        return done(
            &current,
            &account,
            Err(AccountError::Already("on this plan")),
            String::new(),
        )
        .await;
    }
    match accounts::set_plan(
        &web.app.db,
        &current.actor(),
        account.account_id,
        &form.plan,
    )
    .await
    {
        Err(AccountError::UnknownPlan(_)) => {
            refused(&web, &current, &account, unknown, String::new()).await
        }
        outcome => {
            let sentence = format!(
                "{} is on the plan {} now, on every node within a second.",
                account.email, form.plan
            );
            done(&current, &account, outcome, sentence).await
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SuspendForm {
    reason: String,
}

pub(crate) async fn suspend(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(account_id): Path<String>,
    Form(form): Form<SuspendForm>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    let outcome = accounts::suspend(
        &web.app.db,
        &current.actor(),
        account.account_id,
        &form.reason,
    )
    .await;
    if let Err(AccountError::InvalidReason(error)) = outcome {
        let problem = ("reason", sentence(&error));
        return refused(&web, &current, &account, problem, form.reason).await;
    }
    let sentence = format!(
        "{} is suspended: its tokens are refused within a second, its leases lapse.",
        account.email
    );
    done(&current, &account, outcome, sentence).await
}

pub(crate) async fn restore(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(account_id): Path<String>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    let outcome = accounts::restore(&web.app.db, &current.actor(), account.account_id).await;
    done(
        &current,
        &account,
        outcome,
        format!("{} is restored: its tokens work again.", account.email),
    )
    .await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PromoteForm {
    sure: String,
}

pub(crate) async fn promote(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(account_id): Path<String>,
    Form(form): Form<PromoteForm>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    if form.sure != "yes" {
        let problem = "Tick the box if you mean it: it cannot be taken back here.".to_owned();
        return refused(&web, &current, &account, ("sure", problem), String::new()).await;
    }
    let outcome = accounts::promote(&web.app.db, &current.actor(), account.account_id).await;
    done(
        &current,
        &account,
        outcome,
        format!("{} is an administrator now.", account.email),
    )
    .await
}

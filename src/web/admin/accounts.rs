//! `/admin/accounts`: finding accounts, and what administrators do to them.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use serde::Deserialize;

use super::audit;
use crate::accounts::{self, Account, AccountError, store::Filter};
use crate::audit::{list as list_entries, store::Filter as AuditFilter};
use crate::id::AccountId;
use crate::locks;
use crate::namespaces;
use crate::plans::{self, Plan};
use crate::text::sentence;
use crate::tokens;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, RequireAdmin};
use crate::web::state::Web;
use crate::web::ui::field::{Choice, Field};
use crate::web::ui::form::FormState;
use crate::web::ui::limits::used;
use crate::web::ui::page::{Flash, Page, Tab, render, render_as};
use crate::web::ui::pagination::{FETCHED_ROWS, ListUrl, PaginatedList, row_id, search_text};
use crate::web::ui::time::RelativeTime;

/// Entries of the audit log on an account's page.
const AUDIT_ENTRIES: usize = 10;

#[derive(Template)]
#[template(path = "admin/accounts.html")]
struct AccountsPage {
    page: Page,
    search: Field,
    plan: Field,
    accounts: PaginatedList<Account>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    #[serde(deserialize_with = "search_text")]
    q: Option<String>,
    #[serde(deserialize_with = "search_text")]
    plan: Option<String>,
    #[serde(deserialize_with = "row_id")]
    before: Option<AccountId>,
}

pub(crate) async fn list(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Query(query): Query<ListQuery>,
) -> Result<Response, WebError> {
    let plans = plans::list(&web.app.db).await?;
    let url = ListUrl::newest_first("/admin/accounts")
        .filter("q", query.q.as_deref())
        .filter("plan", query.plan.as_deref());
    let filter = Filter {
        text: query.q,
        plan: query.plan,
        before_id: query.before,
        ..Filter::default()
    };
    let accounts = accounts::search(&web.app.db, &filter, FETCHED_ROWS).await?;
    let any_plan = std::iter::once(Choice::new("", "Any plan"));
    let plan = Field::select("plan", "Plan", any_plan.chain(plan_choices(&plans)));
    let form = url.form();
    render(&AccountsPage {
        page: current.page("Accounts", Tab::AdminAccounts).await?,
        search: form.field(Field::search("q", "E-mail address")),
        plan: form.field(plan),
        accounts: url.page(query.before.is_none(), accounts, |last| {
            vec![("before", last.account_id.to_string())]
        }),
    })
}

fn plan_choices(plans: &[Plan]) -> impl Iterator<Item = Choice> + '_ {
    plans
        .iter()
        .map(|plan| Choice::new(&plan.code, &plan.limits.name))
}

#[derive(Template)]
#[template(path = "admin/account.html")]
struct AccountPage {
    page: Page,
    account: Account,
    is_self: bool,
    namespaces: String,
    tokens: String,
    live_locks: String,
    form: FormState,
    plan: Field,
    reason: Field,
    sure: Field,
    entries: Vec<audit::Row>,
    has_more_entries: bool,
}

async fn find(web: &Web, account_id: &str) -> Result<Account, WebError> {
    let account_id: AccountId = account_id.parse().map_err(|_| WebError::NotFound)?;
    Ok(accounts::find(&web.app.db, account_id).await?)
}

/// The name of the form: the acts on an account share one, and one list of problems.
const FORM: &str = "account";

async fn show_forms(
    web: &Web,
    current: &CurrentAccount,
    account: Account,
    form: FormState,
) -> Result<Response, WebError> {
    let db = &web.app.db;
    let account_id = account.account_id;
    let limits = &account.limits;
    let plans = plans::list(db).await?;
    let filter = AuditFilter {
        subject_account_id: Some(account_id),
        ..AuditFilter::default()
    };
    let mut entries = list_entries(db, &filter, AUDIT_ENTRIES as i64 + 1).await?;
    let has_more_entries = entries.len() > AUDIT_ENTRIES;
    entries.truncate(AUDIT_ENTRIES);
    let mut tokens = tokens::list(db, account_id).await?;
    tokens.retain(|token| !token.expired);
    let namespaces = namespaces::list(db, account_id).await?;
    let private = namespaces.len().saturating_sub(1);
    let live_locks = locks::store::count_live(db, account_id).await?;
    let reason =
        Field::reason("Its owner reads it when signing in, and it stands in the audit log.");
    let sure = format!("{} may manage every account and plan", account.email);
    let plan = Field::select("plan", "Plan", plan_choices(&plans));
    let page = AccountPage {
        page: current
            .page(form.title(&account.email), Tab::AdminAccounts)
            .await?,
        is_self: account_id == current.account.account_id,
        namespaces: used(private, limits.max_private_namespaces),
        tokens: used(tokens.len(), limits.max_tokens),
        live_locks: used(live_locks, limits.max_live_locks),
        plan: form.clone().with("plan", &account.plan).field(plan),
        reason: form.field(reason),
        sure: form.field(Field::check("sure", sure)),
        form,
        entries: entries.into_iter().map(audit::Row::from).collect(),
        has_more_entries,
        account,
    };
    render_as(page.form.status(), &page)
}

pub(crate) async fn show(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(account_id): Path<String>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    show_forms(&web, &current, account, FormState::new(FORM)).await
}

/// Leads back to the account's page, which says what was done, or why nothing was.
async fn redirect_to_account(
    current: &CurrentAccount,
    account: &Account,
    result: Result<(), AccountError>,
    sentence_done: String,
) -> Result<Response, WebError> {
    let flash = match result {
        Ok(()) => Flash::ok(sentence_done),
        Err(error @ AccountError::Already(_)) => Flash::warn(sentence(&error)),
        Err(error @ AccountError::Yourself) => Flash::error(sentence(&error)),
        Err(error) => return Err(error.into()),
    };
    let path = format!("/admin/accounts/{}", account.account_id);
    current.redirect(&path, flash).await
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
    Form(submitted): Form<PlanForm>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    let (plan, actor) = (&submitted.plan, current.actor());
    let result = if *plan == account.plan {
        Err(AccountError::Already("on this plan"))
    } else {
        accounts::set_plan(&web.app.db, &actor, account.account_id, plan).await
    };
    if let Err(AccountError::UnknownPlan(_)) = result {
        let problem = "choose one of the plans in the list";
        let form = FormState::new(FORM).rejected("plan", problem);
        return show_forms(&web, &current, account, form).await;
    }
    let sentence_done = format!(
        "{} is on the plan {plan} now, on every node within a second.",
        account.email
    );
    redirect_to_account(&current, &account, result, sentence_done).await
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
    Form(submitted): Form<SuspendForm>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    let (actor, reason) = (current.actor(), &submitted.reason);
    let result = accounts::suspend(&web.app.db, &actor, account.account_id, reason).await;
    if let Err(AccountError::InvalidReason(error)) = result {
        let form = FormState::new(FORM).with("reason", reason);
        return show_forms(&web, &current, account, form.rejected("reason", error)).await;
    }
    let sentence_done = format!(
        "{} is suspended: its tokens are refused within a second, its leases lapse.",
        account.email
    );
    redirect_to_account(&current, &account, result, sentence_done).await
}

pub(crate) async fn restore(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Path(account_id): Path<String>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    let result = accounts::restore(&web.app.db, &current.actor(), account.account_id).await;
    let sentence_done = format!("{} is restored: its tokens work again.", account.email);
    redirect_to_account(&current, &account, result, sentence_done).await
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
    Form(submitted): Form<PromoteForm>,
) -> Result<Response, WebError> {
    let account = find(&web, &account_id).await?;
    if submitted.sure != "yes" {
        let problem = "tick the box if you mean it: it cannot be taken back here";
        let form = FormState::new(FORM).rejected("sure", problem);
        return show_forms(&web, &current, account, form).await;
    }
    let result = accounts::promote(&web.app.db, &current.actor(), account.account_id).await;
    let sentence_done = format!("{} is an administrator now.", account.email);
    redirect_to_account(&current, &account, result, sentence_done).await
}

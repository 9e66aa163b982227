//! `lockable admin plan`.

use anyhow::anyhow;
use clap::{Args, Subcommand};

use super::context::Admin;
use crate::cli::output;
use crate::plans::{self, DEFAULT_PLAN, InvalidLimits, Limits, Plan, PlanError};

#[derive(Subcommand, Debug)]
pub(super) enum PlanCommand {
    /// List plans
    List,
    /// Show a plan
    Show {
        /// Its code
        plan: String,
    },
    /// Make a plan; limits that are not given are those of the plan of new accounts
    Create {
        /// Its code: a-z, 0-9 and -
        plan: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Change limits of a plan. Leases that run go on; new ones follow the new limits within a
    /// second
    Set {
        /// Its code
        plan: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
}

#[derive(Args, Debug)]
pub(super) struct LimitArgs {
    /// Its name for people
    #[arg(long)]
    name: Option<String>,
    /// Shortest lease, milliseconds; the same as the longest: the lease is fixed
    #[arg(long, value_name = "MS")]
    lease_min_ms: Option<i32>,
    /// Lease where nobody says otherwise, milliseconds
    #[arg(long, value_name = "MS")]
    lease_default_ms: Option<i32>,
    /// Longest lease, milliseconds
    #[arg(long, value_name = "MS")]
    lease_max_ms: Option<i32>,
    /// Private namespaces of an account
    #[arg(long, value_name = "N")]
    private_namespaces: Option<i32>,
    /// API tokens of an account
    #[arg(long, value_name = "N")]
    tokens: Option<i32>,
    /// Locks that an account may hold at once
    #[arg(long, value_name = "N")]
    live_locks: Option<i32>,
    /// Requests of an account that may wait at once
    #[arg(long, value_name = "N")]
    waiters: Option<i32>,
    /// Requests a second of an account on each node
    #[arg(long, value_name = "N")]
    requests_per_second: Option<i32>,
    /// Days for which the history of locks in private namespaces is kept
    #[arg(long, value_name = "N")]
    history_days: Option<i32>,
}

impl LimitArgs {
    fn apply(self, limits: &mut Limits) {
        limits.name = self
            .name
            .unwrap_or_else(|| std::mem::take(&mut limits.name));
        for (given, limit) in [
            (self.lease_min_ms, &mut limits.lease_min_ms),
            (self.lease_default_ms, &mut limits.lease_default_ms),
            (self.lease_max_ms, &mut limits.lease_max_ms),
            (self.private_namespaces, &mut limits.max_private_namespaces),
            (self.tokens, &mut limits.max_tokens),
            (self.live_locks, &mut limits.max_live_locks),
            (self.waiters, &mut limits.max_waiters),
            (self.requests_per_second, &mut limits.requests_per_second),
            (self.history_days, &mut limits.history_days),
        ] {
            if let Some(given) = given {
                *limit = given;
            }
        }
    }
}

pub(super) async fn run(admin: &Admin, command: PlanCommand) -> anyhow::Result<()> {
    let (pool, actor) = (&admin.pool, &admin.actor);
    match command {
        PlanCommand::List => list(admin, &plans::list(pool).await?),
        PlanCommand::Show { plan } => show(admin, &plans::find(pool, &plan).await?),
        PlanCommand::Create { plan, limits } => {
            let mut new = plans::find(pool, DEFAULT_PLAN).await?.limits;
            new.name.clone_from(&plan);
            limits.apply(&mut new);
            plans::create(pool, actor, &plan, &new)
                .await
                .map_err(by_flag)?;
            show(admin, &plans::find(pool, &plan).await?)
        }
        PlanCommand::Set { plan, limits } => {
            plans::update(pool, actor, &plan, |current| limits.apply(current))
                .await
                .map_err(by_flag)?;
            show(admin, &plans::find(pool, &plan).await?)
        }
    }
}

/// The complaint about a limit, by the flag that sets it.
fn by_flag(error: PlanError) -> anyhow::Error {
    match error {
        PlanError::Invalid(InvalidLimits { field, problem }) => {
            anyhow!(
                "--{}: {problem}",
                field
                    .strip_prefix("max_")
                    .unwrap_or(field)
                    .replace('_', "-")
            )
        }
        error => error.into(),
    }
}

fn list(admin: &Admin, plans: &[Plan]) -> anyhow::Result<()> {
    if admin.json {
        return output::json(&plans);
    }
    let heading = [
        "PLAN",
        "NAME",
        "ACCOUNTS",
        "LEASE MS",
        "NAMESPACES",
        "TOKENS",
        "LIVE LOCKS",
        "WAITERS",
        "REQUESTS/S",
        "HISTORY DAYS",
    ];
    let row = |plan: &Plan| {
        let limits = &plan.limits;
        vec![
            plan.code.clone(),
            limits.name.clone(),
            plan.accounts.to_string(),
            lease(limits),
            limits.max_private_namespaces.to_string(),
            limits.max_tokens.to_string(),
            limits.max_live_locks.to_string(),
            limits.max_waiters.to_string(),
            limits.requests_per_second.to_string(),
            limits.history_days.to_string(),
        ]
    };
    output::table(&heading, &plans.iter().map(row).collect::<Vec<_>>())?;
    Ok(())
}

fn lease(limits: &Limits) -> String {
    if limits.lease_is_configurable() {
        format!(
            "{} ({} to {})",
            limits.lease_default_ms, limits.lease_min_ms, limits.lease_max_ms
        )
    } else {
        limits.lease_default_ms.to_string()
    }
}

fn show(admin: &Admin, plan: &Plan) -> anyhow::Result<()> {
    if admin.json {
        return output::json(plan);
    }
    let limits = &plan.limits;
    output::fields(&[
        ("plan", plan.code.clone()),
        ("name", limits.name.clone()),
        ("accounts", plan.accounts.to_string()),
        ("lease-min-ms", limits.lease_min_ms.to_string()),
        ("lease-default-ms", limits.lease_default_ms.to_string()),
        ("lease-max-ms", limits.lease_max_ms.to_string()),
        (
            "private-namespaces",
            limits.max_private_namespaces.to_string(),
        ),
        ("tokens", limits.max_tokens.to_string()),
        ("live-locks", limits.max_live_locks.to_string()),
        ("waiters", limits.max_waiters.to_string()),
        (
            "requests-per-second",
            limits.requests_per_second.to_string(),
        ),
        ("history-days", limits.history_days.to_string()),
    ])?;
    Ok(())
}

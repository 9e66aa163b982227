//! `lockable admin`: accounts, tokens and plans from the command line of the machine that the
//! database trusts.
//!
//! Every change stands in the audit log as `command:<user>`. Running nodes follow it within a
//! second.

mod account;
mod context;
mod plan;
mod token;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::json;

use super::output;
use crate::audit::{self, Act, Actor};
use crate::config::DatabaseSettings;
use crate::db::{self, Purpose, Source, identity, migrate};
use context::Admin;

/// `lockable admin`.
#[derive(Args, Debug)]
pub(super) struct AdminArgs {
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
    /// Print data as JSON
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Subcommand, Debug)]
enum AdminCommand {
    /// Make, find and change accounts
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Make API tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// See and edit plans
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Say that the database was restored from an image or snapshot of its disk: moves fencing
    /// tokens far ahead, so that none is given out twice. Not needed after pg_restore or a
    /// failover, which are recognised
    Restored,
}

/// Runs one administrative command.
pub(super) fn run(args: AdminArgs) -> anyhow::Result<()> {
    args.database.validate()?;
    // Before the process becomes another user for the embedded cluster.
    let actor = Actor::command(&os_user());
    let source = Source::for_command(&args.database)?;
    let outcome = super::runtime::block_on(async {
        prepare(&source, &args.database).await?;
        let pool = db::pool(source.options().clone(), Purpose::General, 2);
        let admin = Admin {
            pool: pool.clone(),
            actor,
            json: args.json,
        };
        let outcome = match args.command {
            AdminCommand::Account(command) => account::run(&admin, command).await,
            AdminCommand::Token(command) => token::run(&admin, command).await,
            AdminCommand::Plan(command) => plan::run(&admin, command).await,
            AdminCommand::Restored => restored(&admin).await,
        };
        pool.close().await;
        outcome
    });
    source.stop();
    outcome?
}

/// Migrates a database that is new, or that this command runs by itself; never one that nodes use.
async fn prepare(source: &Source, settings: &DatabaseSettings) -> anyhow::Result<()> {
    let applied = migrate::applied_with(source.options()).await?;
    if applied == 0 || source.is_own() {
        migrate::prepare_with(source.options(), settings.unsafe_database).await?;
    } else if applied < migrate::newest() {
        bail!(
            "the database has an older schema than this program needs: run `lockable migrate` first"
        );
    }
    Ok(())
}

async fn restored(admin: &Admin) -> anyhow::Result<()> {
    let next = identity::restored(&admin.pool).await?;
    let act = Act {
        action: "database.restored",
        subject_account_id: None,
        subject: "database",
        before: None,
        after: Some(json!({ "next_fencing_token": next })),
        reason: None,
    };
    audit::record(&mut *admin.pool.acquire().await?, &admin.actor, act).await?;
    if admin.json {
        return output::json(&json!({ "next_fencing_token": next }));
    }
    Ok(output::line(&format!("fencing tokens go on from {next}"))?)
}

/// The name of the user who started this command, for the audit log.
fn os_user() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name)
}

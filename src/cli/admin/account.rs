//! `lockable admin account`.

use std::io::{IsTerminal, Read};

use anyhow::{Context, bail};
use clap::Subcommand;

use super::context::Admin;
use crate::accounts::store::Filter;
use crate::accounts::{self, Account, AccountError, Email, NewAccount, PasswordHash, Passwords};
use crate::cli::output;
use crate::plans::DEFAULT_PLAN;
use crate::secret::Secret;

/// How many accounts are read at a time.
const PAGE: i64 = 1000;

#[derive(Subcommand, Debug)]
pub(super) enum AccountCommand {
    /// Make an account; without a password, its owner sets one through "forgotten password" on the
    /// sign-in page
    Create {
        /// Its e-mail address, which counts as confirmed
        #[arg(long)]
        email: Email,
        /// Code of its plan
        #[arg(long, value_name = "PLAN", default_value = DEFAULT_PLAN)]
        plan: String,
        /// Let it manage plans and accounts
        #[arg(long)]
        admin: bool,
        /// Read its password from standard input (a line break at the end is left out)
        #[arg(long)]
        password_stdin: bool,
    },
    /// List accounts, newest first
    List {
        /// Only those whose address contains this
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// Only those on this plan
        #[arg(long)]
        plan: Option<String>,
    },
    /// Show an account
    Show {
        /// Its e-mail address
        email: Email,
    },
    /// Put an account on another plan
    SetPlan {
        /// Its e-mail address
        email: Email,
        /// Code of the plan
        plan: String,
    },
    /// Refuse all requests and sign-ins of an account, until it is restored
    Suspend {
        /// Its e-mail address
        email: Email,
        /// Why, for the audit log
        #[arg(long, default_value = "suspended with lockable admin")]
        reason: String,
    },
    /// End a suspension
    Restore {
        /// Its e-mail address
        email: Email,
    },
    /// Let an account manage plans and accounts
    Promote {
        /// Its e-mail address
        email: Email,
    },
}

pub(super) async fn run(admin: &Admin, command: AccountCommand) -> anyhow::Result<()> {
    let (pool, actor) = (&admin.pool, &admin.actor);
    match command {
        AccountCommand::Create {
            email,
            plan,
            admin: is_admin,
            password_stdin,
        } => {
            let password = if password_stdin {
                Some(read_password(&email).await?)
            } else {
                None
            };
            let needs_password = password.is_none();
            let new = NewAccount {
                email: &email,
                password,
                plan: &plan,
                is_admin,
                email_verified: true,
            };
            let account_id = accounts::create(pool, new, Some(actor)).await?;
            let account = accounts::find(pool, account_id).await?;
            show(admin, &account)?;
            if needs_password {
                output::notice(
                    "The account has no password yet: its owner sets one through \"Forgotten \
                     password\" on the sign-in page.",
                );
            }
            Ok(())
        }
        AccountCommand::List { search, plan } => list(admin, search, plan).await,
        AccountCommand::Show { email } => show(admin, &find(admin, &email).await?),
        AccountCommand::SetPlan { email, plan } => {
            accounts::set_plan(pool, actor, find(admin, &email).await?.account_id, &plan).await?;
            show(admin, &find(admin, &email).await?)
        }
        AccountCommand::Suspend { email, reason } => {
            accounts::suspend(pool, actor, find(admin, &email).await?.account_id, &reason).await?;
            show(admin, &find(admin, &email).await?)
        }
        AccountCommand::Restore { email } => {
            accounts::restore(pool, actor, find(admin, &email).await?.account_id).await?;
            show(admin, &find(admin, &email).await?)
        }
        AccountCommand::Promote { email } => {
            accounts::promote(pool, actor, find(admin, &email).await?.account_id).await?;
            show(admin, &find(admin, &email).await?)
        }
    }
}

/// The account of this address.
pub(super) async fn find(admin: &Admin, email: &Email) -> anyhow::Result<Account> {
    match accounts::find_by_email(&admin.pool, email).await {
        Err(AccountError::Unknown) => bail!("there is no account with the e-mail address {email}"),
        outcome => Ok(outcome?),
    }
}

async fn read_password(email: &Email) -> anyhow::Result<PasswordHash> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        output::notice("Password, then Enter and Ctrl-D (it is shown as you type):");
    }
    let mut text = String::new();
    stdin
        .read_to_string(&mut text)
        .context("the password on standard input")?;
    let password = Secret::new(text.trim_end_matches(['\r', '\n']));
    Ok(Passwords::default().hash_new(&password, email).await?)
}

async fn list(admin: &Admin, search: Option<String>, plan: Option<String>) -> anyhow::Result<()> {
    let mut filter = Filter {
        text: search,
        plan,
        ..Filter::default()
    };
    let mut all = Vec::new();
    loop {
        let page = accounts::search(&admin.pool, &filter, PAGE).await?;
        filter.before_id = page.last().map(|account| account.account_id);
        all.extend(page);
        if all.len() % (PAGE as usize) != 0 || filter.before_id.is_none() {
            break;
        }
    }
    if admin.json {
        return output::json(&all);
    }
    let row = |account: &Account| {
        let created = account.created_at.format("%Y-%m-%d").to_string();
        vec![
            account.email.clone(),
            account.plan.clone(),
            state(account),
            created,
        ]
    };
    output::table(
        &["EMAIL", "PLAN", "STATE", "CREATED"],
        &all.iter().map(row).collect::<Vec<_>>(),
    )?;
    Ok(())
}

fn state(account: &Account) -> String {
    match (account.suspended_at.is_some(), account.is_admin) {
        (true, _) => "suspended".to_owned(),
        (false, true) => "administrator".to_owned(),
        (false, false) => "active".to_owned(),
    }
}

fn show(admin: &Admin, account: &Account) -> anyhow::Result<()> {
    if admin.json {
        return output::json(account);
    }
    let instant = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map_or_else(
            || "no".to_owned(),
            |at| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        )
    };
    let mut fields = vec![
        ("account", account.email.clone()),
        ("id", account.account_id.to_string()),
        ("plan", account.plan.clone()),
        (
            "administrator",
            if account.is_admin { "yes" } else { "no" }.to_owned(),
        ),
        ("created", instant(Some(account.created_at))),
        ("address confirmed", instant(account.email_verified_at)),
        ("suspended", instant(account.suspended_at)),
    ];
    if let Some(reason) = &account.suspended_reason {
        fields.push(("reason", reason.clone()));
    }
    if let Some(lease_ms) = account.lease_default_ms {
        fields.push(("default lease", format!("{lease_ms} ms")));
    }
    output::fields(&fields)?;
    Ok(())
}

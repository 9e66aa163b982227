//! `lockable admin token`.

use anyhow::bail;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::json;

use super::account;
use super::context::Admin;
use crate::accounts::Email;
use crate::cli::output;
use crate::namespaces::PUBLIC;
use crate::tokens::{self, NewToken, Scope, TokenError};

#[derive(Subcommand, Debug)]
pub(super) enum TokenCommand {
    /// Make an API token and print it, and only it, on standard output: it is not shown again
    Create {
        /// E-mail address of the account that it is for
        #[arg(long)]
        email: Email,
        /// Its name in lists
        #[arg(long, default_value = "made with lockable admin")]
        label: String,
        /// The namespace whose locks it takes: public, or a private one of the account
        #[arg(long, value_name = "NAME", default_value = PUBLIC)]
        namespace: String,
        /// Its rights: locks, or manage (also the account's tokens and namespaces, and breaking
        /// locks, through API v2)
        #[arg(long, default_value = "locks")]
        scope: Scope,
        /// When it stops working, such as 2030-01-31T00:00:00Z [default: never]
        #[arg(long, value_name = "INSTANT")]
        expires_at: Option<DateTime<Utc>>,
    },
}

pub(super) async fn run(admin: &Admin, command: TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Create {
        email,
        label,
        namespace,
        scope,
        expires_at,
    } = command;
    let owner = account::find(admin, &email).await?;
    let new = NewToken {
        label: &label,
        namespace: &namespace,
        scope,
        expires_at,
    };
    let (token_id, token) = match tokens::create_for(&admin.pool, &admin.actor, &owner, &new).await
    {
        Err(TokenError::UnknownNamespace) => {
            bail!("the account {email} has no namespace {namespace:?}")
        }
        outcome => outcome?,
    };
    if admin.json {
        return output::json(
            &json!({ "token": token.expose(), "token_id": token_id, "namespace": namespace }),
        );
    }
    Ok(output::line(token.expose())?)
}

//! `lockable backup` and `lockable restore`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{output, runtime};
use crate::config::DatabaseSettings;
use crate::db::backup;

/// `lockable backup`.
#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
    /// The file to write; an older file of this name is replaced when the new one is complete
    file: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    json: bool,
}

/// `lockable restore`.
#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
    /// A file that `lockable backup` wrote
    file: PathBuf,
    /// Replace what is in the database, if it is not empty
    #[arg(long)]
    replace: bool,
}

pub(super) fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    args.database.validate()?;
    let bytes = runtime::block_on(backup::backup(&args.database, &args.file))??;
    if args.json {
        return output::json(&json!({ "file": args.file, "bytes": bytes }));
    }
    Ok(output::line(&format!(
        "{}: {bytes} bytes",
        args.file.display()
    ))?)
}

pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    args.database.validate()?;
    runtime::block_on(backup::restore(&args.database, &args.file, args.replace))??;
    Ok(output::line(&format!(
        "restored from {}",
        args.file.display()
    ))?)
}

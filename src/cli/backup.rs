//! `lockable backup` and `lockable restore`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{output, runtime};
use crate::config::DatabaseSettings;
use crate::db::backup::{self, Written};

/// `lockable backup`.
#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
    /// The file to write: a link is followed, and an older file is replaced when the new one is
    /// complete. A device or a pipe is written to. `-` is standard output, and nothing else is
    /// printed there then
    file: PathBuf,
    /// Print the file and its size as JSON
    #[arg(long)]
    json: bool,
}

/// `lockable restore`.
#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    pub(super) database: DatabaseSettings,
    /// A file that `lockable backup` wrote, or a device or a pipe; `-` is standard input
    file: PathBuf,
    /// Replace what is in the database, if it is not empty
    #[arg(long)]
    replace: bool,
}

pub(super) fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    args.database.validate()?;
    let bytes = match runtime::block_on(backup::backup(&args.database, &args.file))?? {
        Written::File(bytes) => Some(bytes),
        Written::Stream => None,
        Written::StandardOutput => return Ok(()),
    };
    if args.json {
        return output::json(&json!({ "file": args.file, "bytes": bytes }));
    }
    let file = args.file.display();
    Ok(output::line(&match bytes {
        Some(bytes) => format!("{file}: {bytes} bytes"),
        None => format!("written to {file}"),
    })?)
}

pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    args.database.validate()?;
    runtime::block_on(backup::restore(&args.database, &args.file, args.replace))??;
    Ok(output::line(&match args.file.to_str() {
        Some("-") => "restored from standard input".to_owned(),
        _ => format!("restored from {}", args.file.display()),
    })?)
}

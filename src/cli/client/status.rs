//! `lockable status`: who holds a lock, and who waits for it.

use std::process::ExitCode;

use clap::Args;

use super::api::lock_name;
use super::description::describe;
use super::display::visible_json;
use super::exit;
use super::failure::Failure;
use super::printing::{print, terminal_width};
use super::v2::{NamespaceApi, NamespaceArgs};

/// `lockable status`.
#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
pub(in crate::cli) struct StatusArgs {
    /// Name of the lock: 1 to 255 bytes without control characters, not . or ..
    name: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Print nothing: the exit code says it
    #[arg(short, long)]
    quiet: bool,
    /// Print the lock as JSON on one line, as the service describes it
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

const EXPLANATION: &str = "\
Shows the leases of the lock with their holders, fencing tokens and remaining times, and the line \
of those who wait. Instants are in UTC. In the public namespace, a lock of another account is \
shown as held, and nothing else of it.

Exit codes:
    0  the lock is held
    1  the lock is free, and nothing else
    2  called wrongly: an option, the URL, a name that no lock can have
   69  no answer
   71  this machine refused what the request needs, such as a descriptor
   74  the answer could not be written
   77  refused by the service: a bad token, or a namespace that it does not see
  101  an error in this program";

/// Shows a lock.
pub(in crate::cli) async fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    Ok(Failure::end(show(&args).await))
}

async fn show(args: &StatusArgs) -> Result<u8, Failure> {
    let name = lock_name(&args.name)?;
    let api = NamespaceApi::new(&args.namespace)?;
    let lock = api.lock(&name).await?;
    let lines = if args.quiet {
        Vec::new()
    } else if args.json {
        vec![visible_json(&lock.json).into_owned()]
    } else {
        describe(&lock.value, api.namespace(), &name, terminal_width())
    };
    print(&lines)?;
    Ok(if lock.value.is_held() {
        exit::TRUE
    } else {
        exit::FALSE
    })
}

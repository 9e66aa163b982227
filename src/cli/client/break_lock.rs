//! `lockable break`: ends leases by force.
//!
//! It looks first, shows what it found, and then breaks exactly the leases that it showed: by then
//! the lock may have another holder, who must not be hit.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::api::{RequestError, lock_name};
use super::description::{NONE, describe, holder, time_left};
use super::display::{visible, visible_json};
use super::exit;
use super::failure::Failure;
use super::printing::print;
use super::v2::{Lease, Lock, NamespaceApi, NamespaceArgs, Outcome};
use crate::cli::output;
use crate::locks::LockName;

/// `lockable break`.
#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
pub(in crate::cli) struct BreakArgs {
    /// Name of the lock: 1 to 255 bytes without control characters, not . or ..
    name: String,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Why: it stands in the account's activity and in the lock's history
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Break the lease with this fencing token [default: that of the one lease that holds the lock]
    #[arg(long, value_name = "N", conflicts_with_all = ["lease_id", "all"])]
    fencing_token: Option<u64>,
    /// Break the lease with this id
    #[arg(long, value_name = "UUID", conflicts_with = "all")]
    lease_id: Option<Uuid>,
    /// Break all leases that the lock has, however many hold it by then
    #[arg(long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Print the outcome as JSON on one line
    #[arg(long)]
    json: bool,
}

const EXPLANATION: &str = "\
Shows the lease, asks, and breaks that lease and no other: if the lock has another holder by then, \
nothing is broken. The program that held the lock is not ended. It learns of the break when it \
renews its lease, and may go on working until then.

Needs a token of scope `manage`.

Exit codes:
    0  broken
    1  nothing was broken: the lock is free, the lease had ended, or the question was not \
answered with yes
    2  called wrongly: an option, the URL, a name that no lock can have, several leases without \
--all, or nobody to ask without --yes
   69  no answer: whether the lease was broken is not known; with --fencing-token or --lease-id it \
may be sent again
   71  this machine refused what the request needs, such as a descriptor
   74  the answer could not be written; the lease is broken
   77  refused by the service: a bad token, one of another scope, or an unknown namespace
  101  an error in this program";

/// The leases that are to be broken.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    FencingToken(u64),
    LeaseId(Uuid),
    All,
}

/// Breaks leases.
pub(in crate::cli) async fn break_lock(args: BreakArgs) -> anyhow::Result<ExitCode> {
    Ok(Failure::end(look_ask_break(&args).await))
}

async fn look_ask_break(args: &BreakArgs) -> Result<u8, Failure> {
    let name = lock_name(&args.name)?;
    let api = NamespaceApi::new(&args.namespace)?;
    let can_ask = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !args.yes && !can_ask {
        return Err(RequestError::Usage(
            "there is nobody to ask, because this is no terminal: --yes breaks without asking"
                .to_owned(),
        )
        .into());
    }
    let lock = api.lock(&name).await?.value;
    let Some(target) = target(args, &lock)? else {
        output::error(format_args!(
            "the lock \"{}\" is free: there is nothing to break",
            visible(&args.name)
        ));
        return Ok(exit::FALSE);
    };
    for line in describe(&lock, api.namespace(), &name, None) {
        output::notice(line);
    }
    output::notice("");
    output::notice(announcement(&target, &lock));
    if !args.yes && !is_confirmed()? {
        output::error("nothing was broken");
        return Ok(exit::FALSE);
    }
    send(args, &api, &name, &target).await
}

/// The leases that the options and the look name; `None` if there is none.
fn target(args: &BreakArgs, lock: &Lock) -> Result<Option<Target>, RequestError> {
    if let Some(fencing_token) = args.fencing_token {
        // Not live any more, perhaps: the service answers a repeated break as at first.
        return Ok(Some(Target::FencingToken(fencing_token)));
    }
    if let Some(lease_id) = args.lease_id {
        return Ok(Some(Target::LeaseId(lease_id)));
    }
    if !lock.is_held() {
        return Ok(None);
    }
    if args.all {
        return Ok(Some(Target::All));
    }
    match lock.leases() {
        [
            Lease {
                fencing_token: Some(fencing_token),
                ..
            },
        ] => Ok(Some(Target::FencingToken(*fencing_token))),
        [_, _, ..] => Err(RequestError::Usage(format!(
            "{} leases hold the lock: break all of them with --all, or one of them with \
             --fencing-token (`lockable status` lists them)",
            lock.leases().len()
        ))),
        _ => Err(RequestError::Refused(
            "the service does not show this token who holds the lock: name the lease with \
             --fencing-token or --lease-id, or break whatever holds the lock with --all"
                .to_owned(),
        )),
    }
}

/// What is about to happen, in a sentence.
fn announcement(target: &Target, lock: &Lock) -> String {
    let shown = match target {
        Target::All => {
            let leases = lock.leases().len();
            return if leases > 1 {
                format!("This breaks all {leases} leases, and any that is granted until then.")
            } else {
                "This breaks whatever lease holds the lock by then.".to_owned()
            };
        }
        Target::FencingToken(token) => lock
            .leases()
            .iter()
            .find(|lease| lease.fencing_token == Some(*token)),
        Target::LeaseId(id) => lock.leases().iter().find(|lease| {
            let lease_id = lease.lease_id.as_deref().and_then(|it| it.parse().ok());
            lease_id == Some(*id)
        }),
    };
    let lease = match target {
        Target::FencingToken(token) => format!("the lease with the fencing token {token}"),
        Target::LeaseId(id) => format!("the lease {id}"),
        Target::All => "all leases".to_owned(),
    };
    let Some(shown) = shown else {
        return format!("This breaks {lease}, which is not among the live ones that are shown.");
    };
    let holder = match holder(shown) {
        holder if holder == NONE => String::new(),
        holder => format!(" of {holder}"),
    };
    format!(
        "This breaks {lease}{holder} ({} remaining).",
        time_left(shown)
    )
}

/// Asks on the terminal.
fn is_confirmed() -> std::io::Result<bool> {
    let mut stderr = std::io::stderr();
    write!(stderr, "Break it? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !answer.ends_with('\n') {
        // The end of the input: the cursor still stands behind the question.
        output::notice("");
    }
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}

async fn send(
    args: &BreakArgs,
    api: &NamespaceApi,
    name: &LockName,
    target: &Target,
) -> Result<u8, Failure> {
    #[derive(Deserialize)]
    struct Broken {
        broken: Vec<Lease>,
    }
    let answer = match api.break_lock(name, &body(args, target)).await {
        Ok(Outcome::Done(answer)) => answer,
        Ok(Outcome::Refused(problem)) if problem.code == "lease-lost" => {
            output::error(had_ended(problem.reason.as_deref()));
            return Ok(exit::FALSE);
        }
        Ok(Outcome::Refused(problem)) => {
            let sentence = problem.sentence(reqwest::StatusCode::CONFLICT);
            return Err(RequestError::Refused(sentence).into());
        }
        Err(error) => return Err(may_be_sent_again(error, target).into()),
    };
    let Broken { broken } = api.read(&answer)?;
    let lines = if args.json {
        vec![visible_json(&answer).into_owned()]
    } else {
        broken.iter().map(broken_line).collect()
    };
    print(&lines)?;
    if broken.is_empty() {
        if !args.json {
            output::error(had_ended(None));
        }
        return Ok(exit::FALSE);
    }
    Ok(exit::TRUE)
}

/// Says how to find out, if it is not known whether a lease was broken.
fn may_be_sent_again(error: RequestError, target: &Target) -> RequestError {
    let option = match target {
        Target::FencingToken(token) => format!("--fencing-token {token}"),
        Target::LeaseId(id) => format!("--lease-id {id}"),
        Target::All => return error,
    };
    match error {
        RequestError::Unavailable {
            sentence,
            retry_after,
            has_waited,
        } => RequestError::Unavailable {
            sentence: format!("{sentence}; with {option} it may be sent again"),
            retry_after,
            has_waited,
        },
        error => error,
    }
}

fn body(args: &BreakArgs, target: &Target) -> Value {
    let mut body = json!({ "reason": args.reason });
    match target {
        Target::FencingToken(token) => body["fencing_token"] = json!(token),
        Target::LeaseId(id) => body["lease_id"] = json!(id),
        Target::All => body["all"] = json!(true),
    }
    body
}

fn had_ended(reason: Option<&str>) -> String {
    // The service does not always remember how.
    let reason = reason
        .filter(|reason| *reason != "unknown")
        .map_or_else(String::new, |reason| format!(" ({})", visible(reason)));
    format!("nothing was broken: the lease had ended{reason}")
}

fn broken_line(lease: &Lease) -> String {
    let token = lease
        .fencing_token
        .map_or_else(|| NONE.to_owned(), |token| token.to_string());
    let id = lease.lease_id.as_deref().unwrap_or(NONE);
    format!("broken: fencing token {token}, lease id {}", visible(id))
}

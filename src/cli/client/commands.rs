//! `lockable acquire`, `heartbeat` and `release`: one request each.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::api::{Answer, Api, NoAnswer, Options};
use super::{Service, duration, exit};
use crate::cli::output;

/// `lockable acquire` and `lockable heartbeat`.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct HoldArgs {
    #[command(flatten)]
    request: RequestArgs,
    /// Length of the lease, such as 30s or 5m, where the plan lets it be chosen
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lease: Option<Duration>,
}

/// `lockable release`, and what the others have too.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct RequestArgs {
    /// Name of the lock
    name: String,
    #[command(flatten)]
    service: Service,
    /// Id of the lease, a UUID of your choosing: with it the request can be repeated, and only who
    /// knows it renews or releases the lock
    #[arg(long, value_name = "UUID")]
    lease_id: Option<Uuid>,
    /// Print the answer as JSON, with the fencing token and the lease
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "Prints true or false. Exit codes:
    0  true
    1  false
    2  called wrongly
   69  no answer: whether it took effect is not known; with --lease-id it may be sent again
   77  refused by the service: a bad token or name, or the plan does not allow it";

/// Takes the lock if it is free.
pub(in crate::cli) async fn acquire(args: HoldArgs) -> anyhow::Result<ExitCode> {
    ask("acquire", args.request, args.lease).await
}

/// Renews the lease.
pub(in crate::cli) async fn heartbeat(args: HoldArgs) -> anyhow::Result<ExitCode> {
    ask("heartbeat", args.request, args.lease).await
}

/// Gives the lock back.
pub(in crate::cli) async fn release(args: RequestArgs) -> anyhow::Result<ExitCode> {
    ask("release", args, None).await
}

async fn ask(action: &str, args: RequestArgs, lease: Option<Duration>) -> anyhow::Result<ExitCode> {
    let options = Options {
        lease_id: args.lease_id,
        lease_ms: lease.map(milliseconds),
    };
    let answer = match Api::new(&args.service, &args.name) {
        Ok(api) => api.ask(action, options).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => {
            if args.json {
                output::line(&as_json(&answer).to_string())?;
            } else {
                output::line(&answer.response.to_string())?;
            }
            Ok(if answer.response {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::FALSE)
            })
        }
        Err(error) => Ok(complain(&error)),
    }
}

/// Says on standard error why there is no answer, and returns the exit code for it.
pub(super) fn complain(error: &NoAnswer) -> ExitCode {
    eprintln!("lockable: {error}");
    match error {
        NoAnswer::Refused(_) => ExitCode::from(exit::REFUSED),
        NoAnswer::Unavailable { .. } => ExitCode::from(exit::UNAVAILABLE),
        NoAnswer::Usage(_) => ExitCode::from(2),
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn as_json(answer: &Answer) -> serde_json::Value {
    if !answer.response {
        return json!({ "response": false });
    }
    let mut object = json!({ "response": true });
    let told = [
        ("fencing_token", answer.fencing_token.map(Into::into)),
        ("lease_id", answer.lease_id.clone().map(Into::into)),
        ("lease_ms", answer.lease_ms.map(Into::into)),
        ("expires_in_ms", answer.expires_in_ms.map(Into::into)),
    ];
    for (name, value) in told {
        if let Some(value) = value {
            object[name] = value;
        }
    }
    object
}

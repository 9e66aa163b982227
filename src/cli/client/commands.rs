//! `lockable acquire`, `heartbeat` and `release`: one request each.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::api::{Api, Outcome, Parameters, RequestError};
use super::service::Service;
use super::{duration, exit};
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
    send("acquire", args.request, args.lease).await
}

/// Renews the lease.
pub(in crate::cli) async fn heartbeat(args: HoldArgs) -> anyhow::Result<ExitCode> {
    send("heartbeat", args.request, args.lease).await
}

/// Gives the lock back.
pub(in crate::cli) async fn release(args: RequestArgs) -> anyhow::Result<ExitCode> {
    send("release", args, None).await
}

async fn send(
    action: &str,
    args: RequestArgs,
    lease: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let parameters = Parameters {
        lease_id: args.lease_id,
        lease_ms: lease.map(milliseconds),
    };
    let outcome = match Api::new(&args.service, &args.name) {
        Ok(api) => api.send(action, parameters).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(outcome) => {
            if args.json {
                output::line(&as_json(&outcome).to_string())?;
            } else {
                output::line(&outcome.response.to_string())?;
            }
            Ok(if outcome.response {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::FALSE)
            })
        }
        Err(error) => Ok(report_error(&error)),
    }
}

/// Says on standard error why there is no answer, and returns the exit code for it.
pub(super) fn report_error(error: &RequestError) -> ExitCode {
    eprintln!("lockable: {error}");
    match error {
        RequestError::Refused(_) => ExitCode::from(exit::REFUSED),
        RequestError::Unavailable { .. } => ExitCode::from(exit::UNAVAILABLE),
        RequestError::Usage(_) => ExitCode::from(2),
    }
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn as_json(outcome: &Outcome) -> serde_json::Value {
    if !outcome.response {
        return json!({ "response": false });
    }
    let mut object = json!({ "response": true });
    let details = [
        ("fencing_token", outcome.fencing_token.map(Into::into)),
        ("lease_id", outcome.lease_id.clone().map(Into::into)),
        ("lease_ms", outcome.lease_ms.map(Into::into)),
        ("expires_in_ms", outcome.expires_in_ms.map(Into::into)),
    ];
    for (name, value) in details {
        if let Some(value) = value {
            object[name] = value;
        }
    }
    object
}

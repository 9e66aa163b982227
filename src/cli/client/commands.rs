//! `lockable acquire`, `heartbeat` and `release`: one request each, but for a long wait.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use super::api::{Api, Call, LONGEST_WAIT, Outcome, Parameters, RequestError, next_wait_ms};
use super::clock::BootInstant;
use super::service::ServiceArgs;
use super::{duration, exit};
use crate::cli::output;

/// `lockable acquire` and `lockable heartbeat`.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct HoldArgs {
    #[command(flatten)]
    request: RequestArgs,
    /// Length of the lease, such as 30, 1.5 or 5m (plain numbers are seconds), where the plan lets
    /// it be chosen
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lease: Option<Duration>,
}

/// `lockable acquire`.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct AcquireArgs {
    #[command(flatten)]
    hold: HoldArgs,
    /// How long to wait in line while somebody else has the lock, such as 30, 0.5 or 5m (plain
    /// numbers are seconds) [default: not at all]. Waits of more than 50 seconds need --lease-id:
    /// they are several requests, and only the id keeps their place
    #[arg(
        short = 'w',
        long,
        visible_alias = "timeout",
        value_name = "DURATION",
        value_parser = duration::parse
    )]
    wait: Option<Duration>,
}

/// `lockable release`, and the options of the others.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct RequestArgs {
    /// Name of the lock: 1 to 255 bytes without control characters, not . or ..
    name: String,
    #[command(flatten)]
    service: ServiceArgs,
    /// Id of the lease, a UUID of your choosing: with it the request can be repeated, and only who
    /// knows it renews or releases the lock
    #[arg(long, value_name = "UUID")]
    lease_id: Option<Uuid>,
    /// Print the outcome as JSON, with the fencing token and the lease
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Prints true or false. Exit codes:
    0  true
    1  false, and nothing else
    2  called wrongly: an option, the URL, a name that no lock can have
   69  no answer: whether it took effect is not known; with --lease-id it may be sent again
   71  this machine refused what the request needs, such as a descriptor
   74  the answer could not be written; the request has had its effect
   77  refused by the service: a bad token, or the plan does not allow it
  101  an error in this program";

/// Takes the lock if it is free, or becomes free while it waits.
pub(in crate::cli) async fn acquire(args: AcquireArgs) -> anyhow::Result<ExitCode> {
    let wait = args.wait.unwrap_or_default();
    Ok(send(Call::Acquire, &args.hold.request, args.hold.lease, wait).await)
}

/// Renews the lease.
pub(in crate::cli) async fn heartbeat(args: HoldArgs) -> anyhow::Result<ExitCode> {
    Ok(send(Call::Heartbeat, &args.request, args.lease, Duration::ZERO).await)
}

/// Gives the lock back.
pub(in crate::cli) async fn release(args: RequestArgs) -> anyhow::Result<ExitCode> {
    Ok(send(Call::Release, &args, None, Duration::ZERO).await)
}

async fn send(call: Call, args: &RequestArgs, lease: Option<Duration>, wait: Duration) -> ExitCode {
    let outcome = match outcome(call, args, lease, wait).await {
        Ok(outcome) => outcome,
        Err(error) => {
            output::error(&error);
            return ExitCode::from(exit_code(&error));
        }
    };
    let text = if args.json {
        as_json(&outcome).to_string()
    } else {
        outcome.response.to_string()
    };
    if let Err(error) = output::line(&text) {
        output::error(format_args!(
            "the answer is {text}, but could not be written: {error}"
        ));
        return ExitCode::from(exit::OUTPUT);
    }
    if outcome.response {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FALSE)
    }
}

/// The outcome of the request, or of as many as it takes to wait for so long.
async fn outcome(
    call: Call,
    args: &RequestArgs,
    lease: Option<Duration>,
    wait: Duration,
) -> Result<Outcome, RequestError> {
    if wait > LONGEST_WAIT && args.lease_id.is_none() {
        let longest = LONGEST_WAIT.as_secs();
        return Err(RequestError::Usage(format!(
            "--wait for more than {longest} seconds needs --lease-id, which keeps the place in the \
             line from one request to the next; or use `lockable run`"
        )));
    }
    let api = Api::new(&args.service, &args.name)?;
    let wait_until = BootInstant::now() + wait;
    loop {
        let parameters = Parameters {
            lease_id: args.lease_id,
            lease_ms: lease.map(duration::milliseconds),
            wait_ms: next_wait_ms(wait_until.remaining()),
        };
        let outcome = api.send(call, parameters).await?;
        if outcome.response || !outcome.is_wait_over || wait_until.has_passed() {
            return Ok(outcome);
        }
    }
}

/// The exit code of a command whose request has no outcome.
pub(super) fn exit_code(error: &RequestError) -> u8 {
    match error {
        RequestError::Refused(_) | RequestError::CannotWait(_) => exit::REFUSED,
        RequestError::Unavailable { .. } | RequestError::TooManyWaiters(_) => exit::UNAVAILABLE,
        RequestError::Usage(_) => exit::USAGE,
        RequestError::System(_) => exit::SYSTEM,
    }
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
        ("waited_ms", outcome.waited_ms.map(Into::into)),
    ];
    for (name, value) in details {
        if let Some(value) = value {
            object[name] = value;
        }
    }
    object
}

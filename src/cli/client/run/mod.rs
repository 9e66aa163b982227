//! `lockable run NAME -- COMMAND`: runs a command while it holds a lock.
//!
//! The lease's id is chosen here, so that every request can be sent again after a lost answer. The
//! job is ended before the instant up to which the lease is certainly held, counted from before the
//! request was sent that granted or renewed it; the watchdog sees to that.

mod acquisition;
mod job;
mod messages;
mod release;
mod signals;
mod supervision;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::api::Api;
use super::commands::exit_code;
use super::lease::Lease;
use super::service::ServiceArgs;
use super::{duration, exit};
use crate::cli::output;
use acquisition::{Acquired, Acquisition};
use job::{Job, StartError};
use messages::Messages;
use signals::Signals;
use supervision::Supervision;

/// `lockable run`.
#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
pub(in crate::cli) struct RunArgs {
    /// Name of the lock: 1 to 255 bytes without control characters, not . or ..
    name: String,
    #[command(flatten)]
    service: ServiceArgs,
    /// Do not wait if somebody else has the lock
    #[arg(short = 'n', long, visible_alias = "nb", conflicts_with = "wait")]
    nonblock: bool,
    /// How long to wait in line while somebody else has the lock, such as 30, 0.5 or 5m (plain
    /// numbers are seconds) [default: as long as it takes]
    #[arg(
        short = 'w',
        long,
        visible_alias = "timeout",
        value_name = "DURATION",
        value_parser = duration::parse
    )]
    wait: Option<Duration>,
    /// Exit code if somebody else has the lock
    #[arg(short = 'E', long, value_name = "N", default_value_t = exit::NOT_GRANTED)]
    conflict_exit_code: u8,
    /// Length of the lease, such as 60 or 5m, where the plan lets it be chosen: how long the lock
    /// stays taken if this machine dies
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lease: Option<Duration>,
    /// Between telling the command to end (SIGTERM) and killing it, when the lease is lost; at most
    /// a third of the lease
    #[arg(long, value_name = "DURATION", default_value = "10", value_parser = duration::parse)]
    kill_after: Duration,
    /// Say nothing if somebody else has the lock, and nothing of trouble that passes by itself
    #[arg(short, long)]
    quiet: bool,
    /// The command and its arguments. Its environment has LOCKABLE_LOCK, LOCKABLE_LEASE_ID and
    /// LOCKABLE_FENCING_TOKEN
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXPLANATION: &str = "\
While somebody else has the lock, it waits in line: first come, first served, on whichever node of \
the service. The place is kept if a node stops or the connection breaks, and a signal gives it up. \
An older service, which knows no waiting, is asked again and again instead.

The lease is renewed at a third of its length. If it cannot be renewed, everything that the \
command has started is told to end (SIGTERM) and then killed, before the lease ends; time that the \
machine sleeps counts. That covers processes in process groups and sessions of their own, daemons, \
and the cases that `lockable run` itself is killed, stopped or hangs. It does not cover processes \
of another user, which may not be killed, and work that another program does on request, such as \
a container engine or systemd.

The lock is given back when the last process that the command has started ends. Only a daemon is \
not waited for: a process whose parent has ended, in a session of its own, that has let go of the \
command's standard input, output and error.

SIGTERM, SIGINT, SIGHUP and SIGQUIT are passed on to all these processes but daemons (SIGINT and \
SIGQUIT as SIGTERM once the command has ended), SIGUSR1 and SIGUSR2 to the command's process \
group. Signals that are ignored at the start (nohup) stay ignored.

Exit codes: the command's own (128 + N if signal N ended it), or
    2  called wrongly: an option, the URL, a name that no lock can have
   69  the service could not be reached
   71  this machine refused what is needed: a process, a descriptor, /proc
   75  somebody else has the lock (-E)
   76  the lease was lost while the command ran
   77  refused by the service: a bad token, or the plan does not allow it
  101  an error in this program
  126  the command cannot be run
  127  there is no such command";

/// Takes the lock, runs the command, gives the lock back.
pub(in crate::cli) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let api = match Api::new(&args.service, &args.name) {
        Ok(api) => api,
        Err(error) => {
            output::error(&error);
            return Ok(ExitCode::from(exit_code(&error)));
        }
    };
    // All that is needed later comes before the lock.
    let messages = Messages::start(args.quiet)?;
    let mut signals = Signals::catch(&signals::FORWARDED)?;
    signals::reap_children()?;
    let mut job = Job::prepare(&args.command)
        .await
        .context("cannot start the watchdog")?;
    let wait = if args.nonblock {
        Some(Duration::ZERO)
    } else {
        args.wait
    };
    let lease_ms = args.lease.map(duration::milliseconds);
    let acquisition = Acquisition::new(&api, &messages, lease_ms, wait);
    let code = match acquisition.run(&mut signals).await {
        Ok(Acquired::Granted(lease)) => {
            run_with(lease, &args, &api, &messages, &mut job, &mut signals).await
        }
        Ok(Acquired::NotGranted) => {
            messages.note(format_args!("somebody else has the lock {:?}", args.name));
            args.conflict_exit_code
        }
        Ok(Acquired::Interrupted(signal)) => 128 + signal as u8,
        Err(error) => {
            messages.error(&error);
            exit_code(&error)
        }
    };
    Ok(ExitCode::from(code))
}

/// Runs the command while the lease is held, and releases it. Returns the exit code.
async fn run_with(
    lease: Lease,
    args: &RunArgs,
    api: &Api,
    messages: &Messages,
    job: &mut Job,
    signals: &mut Signals,
) -> u8 {
    let lease_id = lease.id;
    let environment = environment(api, &lease);
    let supervision = Supervision {
        api,
        messages,
        grace: args.kill_after.min(lease.length / 3),
        lease,
    };
    // Not before: a stop while it waits for the lock is this process's own.
    let mut job_control = match Signals::catch(&signals::JOB_CONTROL) {
        Ok(job_control) => job_control,
        Err(error) => {
            messages.error(error);
            release::release(api, messages, lease_id).await;
            return exit::SYSTEM;
        }
    };
    let started = job
        .start(environment, supervision.deadlines(), supervision.grace)
        .await;
    let code = match started {
        Ok(()) => {
            let end = supervision.run(job, signals, &mut job_control).await;
            if end.code == exit::LEASE_LOST {
                // A renewal whose answer was lost would keep the lock.
                if end.may_hold_lease {
                    release::release_if_held(api, lease_id).await;
                }
                return end.code;
            }
            end.code
        }
        Err(error) => cannot_run(messages, args, &error),
    };
    release::release(api, messages, lease_id).await;
    code
}

/// The variables of the command, which override those of an outer `lockable run`.
fn environment(api: &Api, lease: &Lease) -> Vec<(String, String)> {
    [
        ("LOCKABLE_LOCK", api.name().to_string()),
        ("LOCKABLE_LEASE_ID", lease.id.to_string()),
        ("LOCKABLE_FENCING_TOKEN", lease.fencing_token.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn cannot_run(messages: &Messages, args: &RunArgs, error: &StartError) -> u8 {
    let command = args.command[0].display();
    let (reason, code) = match error {
        StartError::Missing(reason) => (reason.as_str(), exit::NO_SUCH_COMMAND),
        StartError::CannotRun(reason) => (reason.as_str(), exit::CANNOT_RUN),
        StartError::NoWatchdog => ("the watchdog was killed", exit::SYSTEM),
    };
    messages.error(format_args!("cannot run {command}: {reason}"));
    code
}

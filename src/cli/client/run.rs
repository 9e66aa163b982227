//! `lockable run NAME -- COMMAND`: runs a command while it holds a lock.
//!
//! The lease's id is chosen here, so that every request can be sent again after a lost answer. The
//! command is told to end, and then killed, no later than the instant up to which the lease is
//! certainly held, counted on this machine's monotonic clock from before the request that was
//! answered was sent.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::Signal;
use rand::RngExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::api::{Api, Outcome, Parameters, RequestError};
use super::child::Child;
use super::commands::{milliseconds, report_error};
use super::lease::Lease;
use super::service::Service;
use super::{duration, exit};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a service that does not answer is asked again, where less was to be waited for the
/// lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the release at the end: the lease lapses by itself otherwise.
const RELEASE_PATIENCE: Duration = Duration::from_secs(5);

/// Passed on to the command; before it runs, they end the waiting.
const FORWARDED_SIGNALS: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGINT,
    Signal::SIGQUIT,
];
/// While the command runs: what a shell has its jobs stop and go on with, and that a command has
/// stopped.
const JOB_CONTROL_SIGNALS: [Signal; 4] = [
    Signal::SIGCHLD,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// `lockable run`.
#[derive(Args, Debug)]
#[command(after_help = EXIT_CODES)]
pub(in crate::cli) struct RunArgs {
    /// Name of the lock
    name: String,
    #[command(flatten)]
    service: Service,
    /// How long to wait for the lock while somebody else has it, such as 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    wait: Duration,
    /// Length of the lease, such as 60s, where the plan lets it be chosen: how long the lock stays
    /// taken if this machine dies
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lease: Option<Duration>,
    /// Between telling the command to end (SIGTERM) and killing it, when the lease is lost; at most
    /// a third of the lease
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    kill_after: Duration,
    /// The command and its arguments. It finds LOCKABLE_FENCING_TOKEN and LOCKABLE_LEASE_ID in its
    /// environment
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

const EXIT_CODES: &str = "\
The lease is renewed at a third of its length. When it is lost, the command is told to end, and killed, before it ends.
The command is a process group of its own: signals are passed on to it, and it is ended, together with what it has started.
What it leaves running in the background when it ends by itself is not waited for.
Exit codes: the command's own (128 + N if signal N ended it), or
    2  called wrongly
   69  the service could not be reached
   75  somebody else has the lock
   76  the lease was lost while the command ran
   77  refused by the service: a bad token or name, or the plan does not allow it
  126  the command cannot be run
  127  there is no such command";

/// Takes the lock, runs the command, gives the lock back.
pub(in crate::cli) async fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let api = match Api::new(&args.service, &args.name) {
        Ok(api) => api,
        Err(error) => return Ok(report_error(&error)),
    };
    let mut signals = catch_signals(&FORWARDED_SIGNALS)?;
    let lease_id = Cell::new(Uuid::new_v4());
    let granted = tokio::select! {
        granted = acquire(&api, &args, &lease_id) => granted,
        Some(signal) = signals.recv() => {
            // Nothing runs yet, but the request under way may have been granted.
            let parameters = Parameters { lease_id: Some(lease_id.get()), lease_ms: None };
            let _ = tokio::time::timeout(RELEASE_PATIENCE, api.send("release", parameters)).await;
            return Ok(ExitCode::from(128 + signal as u8));
        }
    };
    let lease = match granted {
        Ok(Some(lease)) => lease,
        Ok(None) => {
            eprintln!("lockable: somebody else has the lock {:?}", args.name);
            return Ok(ExitCode::from(exit::NOT_GRANTED));
        }
        Err(error) => return Ok(report_error(&error)),
    };
    // Not before: a stop while it waits for the lock is this process's own.
    let job_control = catch_signals(&JOB_CONTROL_SIGNALS);
    let code = match job_control
        .and_then(|job_control| Ok((job_control, Child::spawn(&args.command, &lease)?)))
    {
        Ok((mut job_control, child)) => {
            let renewal = Renewal {
                api: &api,
                lease: &lease,
                grace: args.kill_after.min(lease.length / 3),
            };
            renewal
                .while_running(child, &mut signals, &mut job_control)
                .await
        }
        Err(error) => {
            eprintln!(
                "lockable: cannot run {}: {error}",
                args.command[0].display()
            );
            if error.kind() == ErrorKind::NotFound {
                exit::NO_SUCH_COMMAND
            } else {
                exit::CANNOT_RUN
            }
        }
    };
    if code != exit::LEASE_LOST {
        release(&api, lease.id).await;
    }
    Ok(ExitCode::from(code))
}

/// Asks until the lock is granted (or, `None`, the wait is over).
async fn acquire(
    api: &Api,
    args: &RunArgs,
    lease_id: &Cell<Uuid>,
) -> Result<Option<Lease>, RequestError> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let parameters = Parameters {
            lease_id: Some(lease_id.get()),
            lease_ms: args.lease.map(milliseconds),
        };
        let wait = match api.send("acquire", parameters).await {
            Ok(outcome) if outcome.response => return granted(&outcome, parameters).map(Some),
            Ok(_) if started.elapsed() >= args.wait => return Ok(None),
            Ok(_) => {
                // It was certainly not granted. An id serves one lease, and this one may have had
                // it unseen: an answer was lost, and the lease lapsed. So the next request has an
                // id of its own.
                lease_id.set(Uuid::new_v4());
                // Not past the end of the wait: the last try comes at it.
                jitter(&mut pause).min(args.wait.saturating_sub(started.elapsed()))
            }
            Err(RequestError::Unavailable {
                sentence,
                retry_after,
            }) => {
                if started.elapsed() >= args.wait.max(PATIENCE) {
                    return Err(RequestError::Unavailable {
                        sentence,
                        retry_after,
                    });
                }
                // Perhaps it was granted, and the answer got lost: the same id again.
                jitter(&mut pause).max(retry_after.unwrap_or_default().min(PATIENCE))
            }
            Err(error) => return Err(error),
        };
        tokio::time::sleep(wait).await;
    }
}

fn granted(outcome: &Outcome, parameters: Parameters) -> Result<Lease, RequestError> {
    let (Some(id), Some(fencing_token), Some(lease_ms), Some(held_until)) = (
        parameters.lease_id,
        outcome.fencing_token,
        outcome.lease_ms,
        outcome.held_until,
    ) else {
        return Err(RequestError::Refused(
            "the service says nothing of the lease in its answer's headers: `lockable run` needs them".to_owned(),
        ));
    };
    let heartbeat = Parameters {
        lease_id: parameters.lease_id,
        lease_ms: parameters.lease_ms,
    };
    Ok(Lease {
        id,
        fencing_token,
        length: Duration::from_millis(lease_ms),
        held_until,
        parameters: heartbeat,
    })
}

/// A pause between half of this and all of it; the next is twice as long.
fn jitter(pause: &mut Duration) -> Duration {
    let now = pause.mul_f64(rand::rng().random_range(0.5..1.0));
    *pause = (*pause * 2).min(LONGEST_PAUSE);
    now
}

async fn release(api: &Api, lease_id: Uuid) {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    let parameters = Parameters {
        lease_id: Some(lease_id),
        lease_ms: None,
    };
    loop {
        match tokio::time::timeout(RELEASE_PATIENCE, api.send("release", parameters)).await {
            Ok(Ok(outcome)) if outcome.response => return,
            Ok(Ok(_)) => {
                eprintln!("lockable: the lease had ended before the release");
                return;
            }
            Ok(Err(RequestError::Unavailable { .. })) if started.elapsed() < RELEASE_PATIENCE => {}
            Ok(Err(error)) => {
                eprintln!(
                    "lockable: the lock was not released and frees itself when its lease lapses: {error}"
                );
                return;
            }
            Err(_) => {
                eprintln!(
                    "lockable: the lock was not released and frees itself when its lease lapses: no answer"
                );
                return;
            }
        }
        tokio::time::sleep(jitter(&mut pause)).await;
    }
}

/// A lease that is kept alive.
struct Renewal<'a> {
    api: &'a Api,
    lease: &'a Lease,
    /// From SIGTERM to SIGKILL.
    grace: Duration,
}

impl Renewal<'_> {
    /// Waits for the command, and renews the lease meanwhile; where that fails, ends the command in
    /// time.
    async fn while_running(
        &self,
        mut child: Child,
        signals: &mut Signals,
        job_control: &mut Signals,
    ) -> u8 {
        let lost = self.keep_renewing();
        tokio::pin!(lost);
        let kill_at = loop {
            tokio::select! {
                code = child.ended() => return code,
                Some(signal) = signals.recv() => child.signal(signal),
                Some(signal) = job_control.recv() => child.control(signal),
                kill_at = &mut lost => break kill_at,
            }
        };
        eprintln!("lockable: the lease is lost: ending the command");
        child.end(kill_at).await;
        exit::LEASE_LOST
    }

    /// Returns when the lease is lost, or cannot be renewed in time: when to kill the command.
    async fn keep_renewing(&self) -> Instant {
        let mut held_until = self.lease.held_until;
        let mut pause = self.lease.length / 3;
        loop {
            let end_at = held_until.checked_sub(self.grace).unwrap_or(held_until);
            let renewed = async {
                tokio::time::sleep(pause).await;
                // A connection that leads nowhere must leave time for another try.
                let patience = self.lease.length / 4;
                let request = self.api.send("heartbeat", self.lease.parameters);
                tokio::time::timeout(patience, request)
                    .await
                    .unwrap_or_else(|_| {
                        Err(RequestError::Unavailable {
                            sentence: "no answer in time".to_owned(),
                            retry_after: None,
                        })
                    })
            };
            match tokio::time::timeout_at(end_at.into(), renewed).await {
                Ok(Ok(outcome)) if outcome.response => {
                    held_until = outcome.held_until.unwrap_or(held_until);
                    pause = self.lease.length / 3;
                }
                // Certainly lost.
                Ok(Ok(_)) => return Instant::now() + self.grace,
                Ok(Err(error)) => {
                    eprintln!("lockable: the lease was not renewed, trying again: {error}");
                    let mut short = (self.lease.length / 20).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                    pause = jitter(&mut short);
                }
                Err(_) => return held_until,
            }
        }
    }
}

type Signals = mpsc::Receiver<Signal>;

/// Catches these signals from now on, instead of what they would do to this process.
fn catch_signals(signals: &[Signal]) -> std::io::Result<Signals> {
    let (sender, receiver) = mpsc::channel(16);
    for name in signals.iter().copied() {
        let mut stream = signal(SignalKind::from_raw(name as i32))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() && sender.send(name).await.is_ok() {}
        });
    }
    Ok(receiver)
}

//! The time in which the command runs: its lease is renewed, signals are passed on.

use std::pin::pin;
use std::time::Duration;

use super::job::Job;
use super::messages::Messages;
use super::signals::Signals;
use crate::cli::client::api::{Api, Call, RequestError};
use crate::cli::client::backoff::heartbeat_pause;
use crate::cli::client::clock::{self, BootInstant};
use crate::cli::client::exit;
use crate::cli::client::lease::{Deadlines, Lease};
use crate::cli::client::protocol::Report;

/// Remains of the job are mentioned after this long.
const MENTION_REMAINS_AFTER: Duration = Duration::from_secs(1);

/// How the job ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The exit code of `run`.
    pub(super) code: u8,
    /// False if the lease has certainly ended.
    pub(super) may_hold_lease: bool,
}

/// Supervises the job of a lease.
#[derive(Debug)]
pub(super) struct Supervision<'a> {
    pub(super) api: &'a Api,
    pub(super) messages: &'a Messages,
    pub(super) lease: Lease,
    /// Between SIGTERM and SIGKILL.
    pub(super) grace: Duration,
}

enum Event {
    Report(Option<Report>),
    Heartbeat(Result<Option<BootInstant>, RequestError>),
    MentionRemains,
}

impl Supervision<'_> {
    pub(super) fn deadlines(&self) -> Deadlines {
        self.lease.deadlines(self.grace)
    }

    /// Returns when nothing of the job runs.
    pub(super) async fn run(
        mut self,
        job: &mut Job,
        signals: &mut Signals,
        job_control: &mut Signals,
    ) -> End {
        let mut command_code = None;
        let mut is_lost = false;
        let mut may_hold_lease = true;
        let mut mention_at = None;
        let mut pause = self.lease.length / 3;
        let (api, parameters, length) = (self.api, self.lease.parameters, self.lease.length);
        let heartbeat = async |pause| {
            clock::sleep(pause).await;
            // A connection that leads nowhere must leave time for another try.
            let give_up_at = BootInstant::now() + length / 4;
            match clock::timeout_at(give_up_at, api.send(Call::Heartbeat, parameters)).await {
                Some(Ok(outcome)) if !outcome.response => Ok(None),
                Some(Ok(outcome)) => Ok(outcome.held_until),
                Some(Err(error)) => Err(error),
                None => Err(RequestError::Unavailable {
                    sentence: "no answer in time".to_owned(),
                    retry_after: None,
                    has_waited: false,
                }),
            }
        };
        // The same request is polled across the other events: it is not sent anew for each.
        let mut renewal = Box::pin(heartbeat(pause));
        loop {
            let event = tokio::select! {
                report = job.next_report() => Event::Report(report),
                signal = signals.next() => {
                    job.signal(signal);
                    continue;
                }
                signal = job_control.next() => {
                    job.control(signal);
                    continue;
                }
                outcome = &mut renewal, if !is_lost => Event::Heartbeat(outcome),
                () = wait_for(mention_at), if !is_lost => Event::MentionRemains,
            };
            match event {
                Event::Report(Some(Report::Finished)) => break,
                Event::Report(None) => {
                    self.messages
                        .error("the watchdog was killed: killing the command");
                    job.kill_remains().await;
                    command_code = Some(exit::SYSTEM);
                    break;
                }
                Event::Report(Some(report)) => match report {
                    Report::Stopped { signal } => job.stopped(signal),
                    Report::CommandEnded { code } => {
                        command_code = Some(code);
                        job.command_ended();
                        mention_at = Some(BootInstant::now() + MENTION_REMAINS_AFTER);
                    }
                    Report::Ending => {
                        is_lost = true;
                        self.say_lost();
                    }
                    Report::Unkillable { pids } => self.messages.error(format_args!(
                        "these processes of another user could not be killed: {pids:?}"
                    )),
                    Report::Ready
                    | Report::Started { .. }
                    | Report::NotStarted { .. }
                    | Report::Finished => {}
                },
                Event::Heartbeat(outcome) => {
                    match outcome {
                        Ok(Some(held_until)) => {
                            self.lease.held_until = held_until;
                            job.renew(self.deadlines());
                            pause = length / 3;
                        }
                        // Certainly lost.
                        Ok(None) => {
                            is_lost = true;
                            may_hold_lease = false;
                            self.say_lost();
                            job.end();
                        }
                        Err(error) => {
                            self.messages.note(format_args!(
                                "the lease was not renewed, trying again: {error}"
                            ));
                            pause = heartbeat_pause(length);
                        }
                    }
                    renewal = Box::pin(heartbeat(pause));
                }
                Event::MentionRemains => {
                    mention_at = None;
                    self.messages
                        .note("the command has ended; the lock is kept while its processes run");
                }
            }
        }
        End {
            code: if is_lost {
                exit::LEASE_LOST
            } else {
                command_code.unwrap_or(exit::SYSTEM)
            },
            may_hold_lease,
        }
    }

    fn say_lost(&self) {
        self.messages.error("the lease is lost: ending the command");
    }
}

async fn wait_for(at: Option<BootInstant>) {
    match at {
        Some(at) => clock::sleep_until(at).await,
        None => pin!(std::future::pending()).await,
    }
}

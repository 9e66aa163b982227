//! Taking the lock, and waiting for it.

use std::pin::pin;
use std::time::Duration;

use nix::sys::signal::Signal;
use uuid::Uuid;

use super::backoff::Backoff;
use super::messages::Messages;
use super::release::{release_after, release_if_held};
use super::signals::Signals;
use crate::cli::client::api::{Api, Call, Outcome, Parameters, RequestError};
use crate::cli::client::clock::{self, BootInstant};
use crate::cli::client::lease::Lease;

/// How long a service that has never answered is asked again, unless the lock is waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the acquisition ended, if no error ended it.
#[derive(Debug)]
pub(super) enum Acquired {
    Granted(Lease),
    /// Somebody else had the lock for as long as was waited.
    NotGranted,
    /// A signal ended the waiting.
    Interrupted(Signal),
}

/// The taking of one lock.
#[derive(Debug)]
pub(super) struct Acquisition<'a> {
    api: &'a Api,
    messages: &'a Messages,
    lease_ms: Option<u64>,
    /// `None`: it waits for as long as it takes.
    wait_until: Option<BootInstant>,
    started_at: BootInstant,
    /// The id of the lease that the next request asks for.
    lease_id: Uuid,
    /// True if that lease may have been granted unseen.
    is_in_doubt: bool,
    /// True once the service has answered, with whatever verdict.
    was_reached: bool,
    /// True while an outage has been said.
    is_away: bool,
}

impl<'a> Acquisition<'a> {
    pub(super) fn new(
        api: &'a Api,
        messages: &'a Messages,
        lease_ms: Option<u64>,
        wait: Option<Duration>,
    ) -> Self {
        let started_at = BootInstant::now();
        Self {
            api,
            messages,
            lease_ms,
            wait_until: wait.map(|wait| started_at + wait),
            started_at,
            lease_id: Uuid::new_v4(),
            is_in_doubt: false,
            was_reached: false,
            is_away: false,
        }
    }

    /// Asks until the lock is granted, the wait is over, or a signal comes.
    ///
    /// # Errors
    /// If the service refuses the request, or is away for too long.
    pub(super) async fn run(mut self, signals: &mut Signals) -> Result<Acquired, RequestError> {
        let api = self.api;
        let mut backoff = Backoff::default();
        loop {
            let parameters = Parameters {
                lease_id: Some(self.lease_id),
                lease_ms: self.lease_ms,
            };
            let mut request = pin!(api.send(Call::Acquire, parameters));
            let outcome = tokio::select! {
                outcome = &mut request => outcome,
                signal = signals.next() => {
                    // Nothing runs yet, but the request in flight may be granted.
                    let release = release_after(request, api, self.messages, self.lease_id);
                    finish_unless_signalled(release, signals).await;
                    return Ok(Acquired::Interrupted(signal));
                }
            };
            let pause = match outcome {
                Ok(outcome) if outcome.response => {
                    return granted(&outcome, parameters).map(Acquired::Granted);
                }
                Ok(_) if self.is_wait_over() => return Ok(Acquired::NotGranted),
                Ok(_) => {
                    self.was_refused();
                    self.until_last_try(backoff.next())
                }
                Err(RequestError::Unavailable {
                    sentence,
                    retry_after,
                }) => {
                    self.is_in_doubt = true;
                    if self.is_patience_over() {
                        release_if_held(api, self.lease_id).await;
                        return Err(RequestError::Unavailable {
                            sentence,
                            retry_after,
                        });
                    }
                    self.say_once(&sentence);
                    // Perhaps it was granted, and the answer was lost: the same id again.
                    backoff
                        .next()
                        .max(retry_after.unwrap_or_default().min(PATIENCE))
                }
                Err(error) => return Err(error),
            };
            tokio::select! {
                () = clock::sleep(pause) => {}
                signal = signals.next() => {
                    if self.is_in_doubt {
                        let release = release_if_held(api, self.lease_id);
                        finish_unless_signalled(release, signals).await;
                    }
                    return Ok(Acquired::Interrupted(signal));
                }
            }
        }
    }

    /// `false`: the lock was certainly not granted. An id serves one lease, and this one may have
    /// had it unseen: an answer was lost, and the lease lapsed. So the next request has an id of
    /// its own.
    fn was_refused(&mut self) {
        self.lease_id = Uuid::new_v4();
        self.is_in_doubt = false;
        self.was_reached = true;
        self.is_away = false;
    }

    fn is_wait_over(&self) -> bool {
        self.wait_until.is_some_and(BootInstant::has_passed)
    }

    /// True if an unavailable service is not asked again: at the end of the wait, but not within
    /// the first seconds; and after these if it never answered and the wait has no end.
    fn is_patience_over(&self) -> bool {
        let patience = self.started_at + PATIENCE;
        match self.wait_until {
            Some(until) => until.max(patience).has_passed(),
            None => !self.was_reached && patience.has_passed(),
        }
    }

    /// Not past the end of the wait: the last request is sent at it.
    fn until_last_try(&self, pause: Duration) -> Duration {
        self.wait_until
            .map_or(pause, |until| pause.min(until.remaining()))
    }

    /// Says once an outage why there is no verdict.
    fn say_once(&mut self, sentence: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            self.messages.note(format_args!("{sentence}; trying again"));
        }
    }
}

/// A second signal cuts the release short.
async fn finish_unless_signalled(release: impl Future<Output = ()>, signals: &mut Signals) {
    tokio::select! {
        () = release => {}
        _ = signals.next() => {}
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
            "the answer's headers say nothing of the lease, which `lockable run` needs".to_owned(),
        ));
    };
    Ok(Lease {
        id,
        fencing_token,
        length: Duration::from_millis(lease_ms),
        held_until,
        parameters,
    })
}

//! Taking the lock, and waiting for it.
//!
//! A request waits in the line of the lock, and is sent again with the same lease id when its time
//! is up: the service keeps the place meanwhile. A service that knows no waiting is polled.

use std::pin::pin;
use std::time::Duration;

use nix::sys::signal::Signal;
use uuid::Uuid;

use super::messages::Messages;
use super::release::{release_after, release_if_held};
use super::signals::Signals;
use crate::cli::client::api::{Api, Call, Outcome, Parameters, RequestError, next_wait_ms};
use crate::cli::client::backoff::Backoff;
use crate::cli::client::clock::{self, BootInstant};
use crate::cli::client::lease::Lease;

/// How long a service that has never answered is asked again, unless the lock is waited for longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// It says that it waits if a request has waited for so long.
const MENTION_WAITING_AFTER: Duration = Duration::from_secs(1);

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
    /// True if the service may know the id: the lease was granted unseen, or the id has a place in
    /// the line.
    is_in_doubt: bool,
    /// True once the service has answered, with whatever verdict.
    was_reached: bool,
    /// True while an outage has been said.
    is_away: bool,
    /// True once the waiting has been said.
    has_said_waiting: bool,
    /// False if the service knows no waiting, and is polled.
    can_wait: bool,
    /// True if the service asked for the last request to be repeated at once.
    was_sent_at_once: bool,
}

/// A request that was not granted the lock.
enum NotYet {
    /// It is sent again after a pause.
    Again(Duration),
    Ended,
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
            has_said_waiting: false,
            can_wait: true,
            was_sent_at_once: false,
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
                wait_ms: self.wait_ms(),
            };
            let mut request = pin!(api.send(Call::Acquire, parameters));
            let outcome = loop {
                tokio::select! {
                    outcome = &mut request => break outcome,
                    () = clock::sleep(MENTION_WAITING_AFTER),
                        if parameters.wait_ms > 0 && !self.has_said_waiting =>
                    {
                        self.say_waiting();
                    }
                    signal = signals.next() => {
                        // Nothing runs yet, but the request in flight may be granted.
                        if parameters.wait_ms > 0 {
                            // It may wait for long. Released first, its id is granted nothing any
                            // more, and its place is given up.
                            let release = release_if_held(api, self.lease_id);
                            finish_unless_signalled(release, signals).await;
                        } else {
                            let release = release_after(request, api, self.messages, self.lease_id);
                            finish_unless_signalled(release, signals).await;
                        }
                        return Ok(Acquired::Interrupted(signal));
                    }
                }
            };
            let outcome = match outcome {
                Ok(outcome) if outcome.response => {
                    let lease = granted(&outcome, parameters)?;
                    if !lease.held_until.has_passed() {
                        return Ok(Acquired::Granted(lease));
                    }
                    // The answer was late: this machine slept while it waited, as a rule.
                    self.is_in_doubt = true;
                    self.give_up().await;
                    Ok(false)
                }
                outcome => outcome.map(|outcome| outcome.is_wait_over),
            };
            let pause = match self.not_granted(outcome, &mut backoff) {
                Ok(NotYet::Again(pause)) => pause,
                Ok(NotYet::Ended) => {
                    self.give_up().await;
                    return Ok(Acquired::NotGranted);
                }
                Err(error) => {
                    self.give_up().await;
                    return Err(error);
                }
            };
            tokio::select! {
                biased;
                signal = signals.next() => {
                    finish_unless_signalled(self.give_up(), signals).await;
                    return Ok(Acquired::Interrupted(signal));
                }
                () = clock::sleep(pause) => {}
            }
        }
    }

    /// The time that the next request waits in the line, milliseconds.
    fn wait_ms(&self) -> u64 {
        let remaining = self
            .wait_until
            .map_or(Duration::MAX, BootInstant::remaining);
        if self.can_wait {
            next_wait_ms(remaining)
        } else {
            0
        }
    }

    /// The step after `false`, with whether the whole wait is over, or after an error.
    fn not_granted(
        &mut self,
        outcome: Result<bool, RequestError>,
        backoff: &mut Backoff,
    ) -> Result<NotYet, RequestError> {
        let was_sent_at_once = std::mem::take(&mut self.was_sent_at_once);
        match outcome {
            Ok(has_waited) => {
                self.was_refused(has_waited);
                if self.is_wait_over() {
                    Ok(NotYet::Ended)
                } else if has_waited {
                    *backoff = Backoff::default();
                    Ok(NotYet::Again(Duration::ZERO))
                } else {
                    Ok(NotYet::Again(self.until_last_try(backoff.next())))
                }
            }
            Err(RequestError::CannotWait(_)) => {
                self.can_wait = false;
                Ok(NotYet::Again(Duration::ZERO))
            }
            Err(RequestError::TooManyWaiters(_)) if self.is_wait_over() => Ok(NotYet::Ended),
            Err(RequestError::TooManyWaiters(sentence)) => {
                self.was_reached = true;
                self.say_once(&sentence);
                Ok(NotYet::Again(self.until_last_try(backoff.next())))
            }
            // Perhaps it was granted, and the answer was lost: the same id again.
            Err(RequestError::Unavailable {
                sentence,
                retry_after,
                has_waited,
            }) => {
                self.is_in_doubt = true;
                self.was_reached |= has_waited;
                if self.is_patience_over() {
                    return Err(RequestError::Unavailable {
                        sentence,
                        retry_after,
                        has_waited,
                    });
                }
                // A node that stops: another one answers. Not twice, or it would be asked without
                // a pause until it has stopped.
                if retry_after == Some(Duration::ZERO) && !was_sent_at_once {
                    self.was_sent_at_once = true;
                    return Ok(NotYet::Again(Duration::ZERO));
                }
                self.say_once(&sentence);
                let retry_after = retry_after.unwrap_or_default().min(PATIENCE);
                Ok(NotYet::Again(backoff.next().max(retry_after)))
            }
            Err(error) => Err(error),
        }
    }

    /// `false`: the lock was certainly not granted. After its whole wait the id has a place in the
    /// line, and is sent again. Else the next request has an id of its own: an id serves one lease,
    /// and this one may have had it unseen, when an answer was lost and the lease lapsed.
    fn was_refused(&mut self, has_waited: bool) {
        if !has_waited {
            self.lease_id = Uuid::new_v4();
        }
        self.is_in_doubt = has_waited;
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

    /// Gives back what the service may have for the id: a lease, or a place in the line.
    async fn give_up(&self) {
        if self.is_in_doubt {
            release_if_held(self.api, self.lease_id).await;
        }
    }

    /// Says once an outage why there is no verdict.
    fn say_once(&mut self, sentence: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            self.messages.note(format_args!("{sentence}; trying again"));
        }
    }

    /// Says once that it waits.
    fn say_waiting(&mut self) {
        self.has_said_waiting = true;
        let name = self.api.name().as_str();
        self.messages
            .note(format_args!("waiting for the lock {name:?}"));
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
        parameters: Parameters {
            wait_ms: 0,
            ..parameters
        },
    })
}

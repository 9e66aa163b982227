//! One waiting request, from its place in the line to its outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Signal, Waiting};
use crate::locks::engine::gate::{GateOperation, GateOutcome, GateRequest, Place};
use crate::locks::engine::{events, metric};
use crate::locks::{Acquire, AcquireOutcome, EngineError, Lease};

/// A waiter. When it is dropped without an outcome, because its client has gone, it gives up its
/// place.
#[derive(Debug)]
pub(in crate::locks::engine) struct Waiter {
    waiting: Arc<Waiting>,
    place: Arc<Place>,
    signal: Arc<Signal>,
    /// When the request arrived.
    arrived_at: Instant,
    /// True if it has no place any more.
    has_left: bool,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // In this order: a node that stops closes its queues once it has no waiters.
        if !self.has_left {
            self.waiting.abandon(&self.place);
        }
        self.waiting.remove(self.place.attachment);
    }
}

/// So long before its time is up, a waiter asks nothing but to leave: no other request would be
/// sent any more.
const TIME_UP_WITHIN: Duration = Duration::from_millis(25);

/// The pause before a waiter asks again whose request found the queue full.
const PAUSE_WHEN_OVERLOADED: Duration = Duration::from_millis(50);

/// The next request of a waiter to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Join,
    Confirm,
    Leave,
}

/// What a waiter waits for.
enum Event {
    Wanted,
    Refused,
    Stopping,
    TimeUp,
}

impl Waiter {
    /// # Errors
    /// If the node is stopping, or as many requests of the account wait as may.
    pub(in crate::locks::engine) fn new(
        waiting: &Arc<Waiting>,
        acquire: Acquire,
        arrived_at: Instant,
    ) -> Result<Self, EngineError> {
        let wait = Duration::from_millis(acquire.wait_ms.unsigned_abs().into());
        let (place, signal) = waiting.add(acquire, arrived_at + wait)?;
        metrics::counter!(metric::WAITS).increment(1);
        Ok(Self {
            waiting: Arc::clone(waiting),
            place,
            signal,
            arrived_at,
            has_left: false,
        })
    }

    /// Waits for the lock. `ask` sends a request to the gate; no later than the given time its
    /// outcome is unknown.
    ///
    /// # Errors
    /// [`EngineError`]: its variants say whether the lock may have been granted.
    pub(in crate::locks::engine) async fn wait<F>(
        mut self,
        ask: impl Fn(GateRequest, Instant) -> F,
        patience: Duration,
    ) -> Result<AcquireOutcome, EngineError>
    where
        F: Future<Output = Result<GateOutcome, EngineError>>,
    {
        let outcome = self.run(ask, patience).await;
        let waited = self.arrived_at.elapsed();
        let label = match &outcome {
            Ok(AcquireOutcome::Granted(_)) => "granted",
            Ok(_) => "not_granted",
            Err(_) => "no_answer",
        };
        metrics::histogram!(metric::WAITED_SECONDS, "outcome" => label)
            .record(waited.as_secs_f64());
        outcome
    }

    async fn run<F>(
        &mut self,
        ask: impl Fn(GateRequest, Instant) -> F,
        patience: Duration,
    ) -> Result<AcquireOutcome, EngineError>
    where
        F: Future<Output = Result<GateOutcome, EngineError>>,
    {
        let waits_until = self.place.waits_until;
        let mut step = Step::Join;
        let mut has_joined = false;
        loop {
            let asked_at = Instant::now();
            let deadline = match step {
                // Whether the lock is free is decided even if that takes longer than the wait.
                Step::Join | Step::Leave => asked_at + patience,
                // In an outage it goes on waiting, and leaves when its time is up.
                Step::Confirm => waits_until.min(asked_at + patience),
            };
            // In a box: ten thousand wait, and only while they ask do they need room for it.
            let asking = Box::pin(ask(self.request(step), deadline));
            let asked = tokio::select! {
                outcome = asking => Some(outcome),
                () = self.signal.stopping() => None,
            };
            let Some(outcome) = asked else {
                return Err(EngineError::ShuttingDown);
            };
            let is_time_up = Instant::now() + TIME_UP_WITHIN >= waits_until;
            step = match outcome {
                Ok(GateOutcome::Granted(lease)) if is_fresh(asked_at, &lease) => {
                    self.has_left = true;
                    let lease = self.granted(lease, asked_at);
                    let event = events::granted(&self.place.acquire, &lease);
                    self.waiting.recorder.record(event);
                    return Ok(AcquireOutcome::Granted(lease));
                }
                Ok(GateOutcome::Granted(_)) if is_time_up => Step::Leave,
                Ok(GateOutcome::Granted(_)) => Step::Confirm,
                Ok(GateOutcome::Waiting) => {
                    has_joined = true;
                    self.waiting.note_joined(self.place.attachment);
                    match self.next_event().await {
                        Event::Wanted => Step::Confirm,
                        Event::TimeUp => Step::Leave,
                        Event::Stopping => return Err(EngineError::ShuttingDown),
                        Event::Refused => return Err(EngineError::CallerRefused),
                    }
                }
                Ok(GateOutcome::Gone) if step != Step::Leave && !is_time_up => Step::Join,
                // The lock may have been free for all that time: nothing was decided about it.
                Ok(GateOutcome::Gone) if !has_joined => {
                    self.has_left = true;
                    return Err(EngineError::Unknown);
                }
                Ok(GateOutcome::Left | GateOutcome::Gone | GateOutcome::Held) => {
                    self.has_left = outcome != Ok(GateOutcome::Held);
                    return Ok(AcquireOutcome::Held);
                }
                Ok(GateOutcome::LimitConflict(in_force)) => {
                    return Ok(AcquireOutcome::LimitConflict { in_force });
                }
                Ok(GateOutcome::LeaseEnded) => {
                    self.has_left = true;
                    // An id that the engine drew can have ended only unseen.
                    return if self.place.acquire.needs_proof {
                        Ok(AcquireOutcome::LeaseEnded)
                    } else {
                        Err(EngineError::Unknown)
                    };
                }
                Ok(GateOutcome::Replaced) => {
                    self.has_left = true;
                    return Err(EngineError::Replaced);
                }
                Ok(GateOutcome::CallerRefused) => return Err(EngineError::CallerRefused),
                Ok(GateOutcome::TooManyWaiters) => {
                    self.has_left = true;
                    let max = self.place.acquire.max_waiters_of_lock;
                    return Err(EngineError::TooManyWaiters { max });
                }
                // The database is away, or has too much to do: whether it stands in the line is
                // asked again, until its time is up.
                Err(EngineError::Unknown) if step != Step::Leave => {
                    if is_time_up {
                        Step::Leave
                    } else {
                        Step::Confirm
                    }
                }
                Err(EngineError::Overloaded) if step == Step::Confirm => {
                    tokio::time::sleep(PAUSE_WHEN_OVERLOADED).await;
                    if is_time_up {
                        Step::Leave
                    } else {
                        Step::Confirm
                    }
                }
                Err(error) => return Err(error),
                Ok(
                    GateOutcome::Released
                    | GateOutcome::Lost(_)
                    | GateOutcome::Broken(_)
                    | GateOutcome::Done,
                ) => return Err(EngineError::Refused),
            };
        }
    }

    fn request(&self, step: Step) -> GateRequest {
        let operation = match step {
            Step::Join => GateOperation::Acquire,
            Step::Confirm => GateOperation::Confirm,
            Step::Leave => GateOperation::Leave,
        };
        GateRequest::of_place(&self.place, operation)
    }

    /// The lease, with the time that was waited until the instant before it was asked for.
    fn granted(&self, mut lease: Lease, asked_at: Instant) -> Lease {
        let waited = asked_at.saturating_duration_since(self.arrived_at);
        lease.waited_ms = i32::try_from(waited.as_millis()).unwrap_or(i32::MAX);
        lease
    }

    async fn next_event(&self) -> Event {
        let time_up = tokio::time::sleep_until(self.place.waits_until.into());
        tokio::pin!(time_up);
        loop {
            if self.signal.is_stopping() {
                return Event::Stopping;
            }
            if self.signal.is_refused() {
                return Event::Refused;
            }
            if self.signal.take_confirm() {
                return Event::Wanted;
            }
            tokio::select! {
                () = self.signal.wake.notified() => {}
                () = &mut time_up => return Event::TimeUp,
            }
        }
    }
}

/// True if the answer took less than half of the lease: otherwise it says too little about what is
/// left of it, and the lease is renewed first.
fn is_fresh(asked_at: Instant, lease: &Lease) -> bool {
    asked_at.elapsed().as_millis() * 2 <= lease.expires_in_ms.unsigned_abs().into()
}

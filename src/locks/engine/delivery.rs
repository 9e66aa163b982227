//! Delivers the outcomes of a batch: replies to clients and their followers, counts, and collects
//! in a [`Settlement`] the requests that the queue gets back.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::batch_statement::BatchStatement;
use super::connection::{SendError, StatementResults};
use super::events;
use super::gate::{GateOperation, GateOutcome, GateRequest};
use super::request::{
    AnyRequest, FastOutcome, LockRequest, LockedRelease, MemberHeartbeat, Pending, release_of_grant,
};
use crate::events::NewEvent;
use crate::locks::usage::Usage;
use crate::locks::{
    Acquire, AcquireOutcome, EngineError, Heartbeat, HeartbeatOutcome, LockKey, Lost, Release,
    ReleaseOutcome,
};

/// The end of a batch: which requests were answered, and which go back to the queue.
#[derive(Default)]
pub(super) struct Settlement {
    /// The locks whose requests were answered.
    pub(super) answered: Vec<LockKey>,
    /// The requests that have to be sent again, and those that the engine issues itself.
    pub(super) retries: Vec<AnyRequest>,
    /// The requests that failed because another transaction keeps their row locked.
    pub(super) contended: Vec<AnyRequest>,
    /// The events of private namespaces.
    pub(super) events: Vec<NewEvent>,
}

/// Delivers the outcome of one request; returns the request that the engine then has to send.
pub(super) type Deliver<R> =
    fn(Pending<R>, <R as LockRequest>::Outcome, Duration, &Usage, &mut Tally) -> Option<AnyRequest>;

impl Settlement {
    /// Delivers the outcomes of one kind's requests with `deliver`, and sorts the requests that
    /// have none into this settlement. Returns the news of each transaction.
    pub(super) fn deliver<S: BatchStatement>(
        &mut self,
        results: StatementResults<S>,
        usage: &Usage,
        deliver: Deliver<S::Request>,
    ) -> Vec<S::News> {
        let mut tally = Tally::default();
        let mut news = Vec::new();
        for transaction in results {
            match transaction.result {
                Ok(executed) => {
                    let took = executed.took;
                    news.push(executed.news);
                    for (pending, outcome) in
                        transaction.requests.into_iter().zip(executed.outcomes)
                    {
                        match outcome {
                            Some(outcome) => {
                                let key = pending.request.key().clone();
                                match deliver(pending, outcome, took, usage, &mut tally) {
                                    Some(next) => self.retries.push(next),
                                    None => self.answered.push(key),
                                }
                            }
                            None => {
                                tally.add(S::NO_VERDICT, 1);
                                // A grant that is too short to be answered has no verdict either.
                                self.retry(Pending {
                                    is_in_doubt: true,
                                    ..pending
                                });
                            }
                        }
                    }
                }
                Err(error) => {
                    for pending in transaction.requests {
                        self.handle_error(pending, &error);
                    }
                }
            }
        }
        self.events.append(&mut tally.events);
        tally.record(S::COUNTER);
        news
    }

    /// Adds events that the transactions themselves returned.
    pub(super) fn note(&mut self, news: Vec<Vec<NewEvent>>) {
        self.events.extend(news.into_iter().flatten());
    }

    /// Retries, isolates or rejects a request whose statement failed.
    fn handle_error<R: LockRequest>(&mut self, mut pending: Pending<R>, error: &SendError) {
        match error {
            SendError::Refused => self.reject(pending, EngineError::Refused),
            SendError::Contention if Instant::now() < pending.deadline => {
                self.contended.push(R::into_any(pending));
            }
            SendError::Contention => self.reject(pending, EngineError::Unknown),
            SendError::NotSent => self.retry(pending),
            SendError::InDoubt => {
                pending.is_in_doubt = true;
                if pending.request.is_repeatable() {
                    self.retry(pending);
                } else {
                    self.reject(pending, EngineError::Unknown);
                }
            }
        }
    }

    /// Sends the request again, unless its deadline has passed.
    fn retry<R: LockRequest>(&mut self, pending: Pending<R>) {
        if Instant::now() < pending.deadline {
            self.retries.push(R::into_any(pending));
        } else {
            self.reject(pending, EngineError::Unknown);
        }
    }

    /// Answers the request with an error, and undoes what it may have done.
    fn reject<R: LockRequest>(&mut self, pending: Pending<R>, error: EngineError) {
        match R::compensating_release(&pending) {
            Some(release) => self.retries.push(release),
            None => self.answered.push(pending.request.key().clone()),
        }
        pending.reject(error);
    }
}

/// The outcomes of a batch, counted together: to look a counter up by its label for each request
/// costs more than to count. And the events of its grants.
#[derive(Default)]
pub(super) struct Tally {
    outcomes: Vec<(&'static str, u64)>,
    events: Vec<NewEvent>,
}

impl Tally {
    fn add(&mut self, outcome: &'static str, times: u64) {
        match self
            .outcomes
            .iter_mut()
            .find(|(label, _)| *label == outcome)
        {
            Some((_, count)) => *count += times,
            None => self.outcomes.push((outcome, times)),
        }
    }

    fn record(self, counter: &'static str) {
        for (outcome, times) in self.outcomes {
            metrics::counter!(counter, "outcome" => outcome).increment(times);
        }
    }
}

/// True if an outcome took more than half of its lease, on the node's monotonic clock: it says too
/// little about what is left of the lease.
fn is_too_late(took: Duration, lease_ms: i32) -> bool {
    took.as_millis() * 2 > lease_ms.unsigned_abs().into()
}

/// Sends the reply. True if the client received it, or if nobody waits for this request's outcome.
fn send_reply<R: LockRequest>(
    pending: Pending<R>,
    outcome: Result<R::Outcome, EngineError>,
) -> bool {
    pending
        .reply
        .is_none_or(|reply| reply.send(outcome).is_ok())
}

/// Replies to the acquire and its followers. Returns the compensating release of a grant that
/// nobody received, or the acquire itself if it needs another lease id.
pub(super) fn deliver_acquire(
    mut pending: Pending<Acquire>,
    outcome: FastOutcome<AcquireOutcome>,
    took: Duration,
    usage: &Usage,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    let FastOutcome::Decided(outcome) = outcome else {
        tally.add("gated", 1);
        for follower in std::mem::take(&mut pending.followers) {
            let _ = follower.send(Ok(FastOutcome::Gated));
        }
        send_reply(pending, Ok(FastOutcome::Gated));
        return None;
    };
    let label = match &outcome {
        AcquireOutcome::Granted(_) => "granted",
        AcquireOutcome::Held => "held",
        AcquireOutcome::LimitConflict { .. } => "limit_conflict",
        AcquireOutcome::LeaseEnded => "lease_ended",
    };
    tally.add(label, 1);
    if outcome == AcquireOutcome::LeaseEnded && !pending.request.needs_proof {
        // An earlier execution granted it, its result was lost, and the lease has ended since. The
        // id that the engine drew is used up, the client's request is not: it gets a new id.
        pending.request.lease_id = Uuid::new_v4();
        pending.is_in_doubt = false;
        return Some(AnyRequest::Acquire(pending));
    }
    for follower in std::mem::take(&mut pending.followers) {
        tally.add("held", 1);
        let _ = follower.send(Ok(FastOutcome::Decided(AcquireOutcome::Held)));
    }
    let AcquireOutcome::Granted(lease) = outcome else {
        send_reply(pending, Ok(FastOutcome::Decided(outcome)));
        return None;
    };
    usage.note_grant(pending.request.account_id, pending.request.max_live_locks);
    // A client without a lease id of its own cannot learn of the grant later: a grant that it does
    // not receive is released.
    let compensation =
        (!pending.request.needs_proof).then(|| release_of_grant(&pending.request, lease.lease_id));
    let event = events::granted(&pending.request, &lease);
    let is_received = if is_too_late(took, lease.expires_in_ms) {
        send_reply(pending, Err(EngineError::Unknown));
        false
    } else {
        let outcome = AcquireOutcome::Granted(lease);
        send_reply(pending, Ok(FastOutcome::Decided(outcome)))
    };
    let compensation = if is_received { None } else { compensation };
    if compensation.is_none() {
        tally.events.extend(event);
    }
    compensation
}

/// Replies to the heartbeat.
pub(super) fn deliver_heartbeat(
    pending: Pending<Heartbeat>,
    outcome: FastOutcome<HeartbeatOutcome>,
    took: Duration,
    _: &Usage,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    finish_heartbeat(pending, outcome, took, tally)
}

/// Replies to the heartbeat of a shared lease or permit.
pub(super) fn deliver_member_heartbeat(
    pending: Pending<MemberHeartbeat>,
    outcome: FastOutcome<HeartbeatOutcome>,
    took: Duration,
    _: &Usage,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    finish_heartbeat(pending, outcome, took, tally)
}

fn finish_heartbeat<R: LockRequest<Outcome = FastOutcome<HeartbeatOutcome>>>(
    pending: Pending<R>,
    outcome: FastOutcome<HeartbeatOutcome>,
    took: Duration,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    let (label, reply) = match &outcome {
        FastOutcome::Gated => ("gated", Ok(outcome)),
        FastOutcome::Decided(HeartbeatOutcome::Renewed(lease))
            if is_too_late(took, lease.expires_in_ms) =>
        {
            ("late", Err(EngineError::Unknown))
        }
        FastOutcome::Decided(HeartbeatOutcome::Renewed(_)) => ("renewed", Ok(outcome)),
        FastOutcome::Decided(HeartbeatOutcome::Lost(_)) => ("lost", Ok(outcome)),
    };
    tally.add(label, 1);
    send_reply(pending, reply);
    None
}

/// Replies to the release; or returns it as a [`LockedRelease`] if its lease id is not known.
pub(super) fn deliver_release(
    pending: Pending<Release>,
    outcome: FastOutcome<ReleaseOutcome>,
    _: Duration,
    usage: &Usage,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    if outcome == FastOutcome::Decided(ReleaseOutcome::Lost(Lost::Unknown))
        && let Some(lease_id) = pending.request.lease_id
    {
        // Its acquire may still be on the way, or in its commit: only the row's lock tells.
        return Some(AnyRequest::LockedRelease(pending.under_lock(lease_id)));
    }
    finish_release(pending, outcome, usage, tally)
}

/// Replies to the release, which for a compensating one nobody receives. Returns a compensating one
/// for the gate, if that decides.
pub(super) fn deliver_locked_release(
    pending: Pending<LockedRelease>,
    outcome: FastOutcome<ReleaseOutcome>,
    _: Duration,
    usage: &Usage,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    if outcome == FastOutcome::Gated && !pending.request.is_clients {
        let request = GateRequest {
            key: pending.request.key,
            account_id: pending.request.account_id,
            operation: GateOperation::Compensate {
                lease_id: pending.request.lease_id,
            },
        };
        return Some(AnyRequest::Gate(Pending::new(
            request,
            None,
            pending.deadline,
        )));
    }
    finish_release(pending, outcome, usage, tally)
}

fn finish_release<R: LockRequest<Outcome = FastOutcome<ReleaseOutcome>>>(
    pending: Pending<R>,
    outcome: FastOutcome<ReleaseOutcome>,
    usage: &Usage,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    let label = match outcome {
        FastOutcome::Gated => "gated",
        FastOutcome::Decided(ReleaseOutcome::Released) => "released",
        FastOutcome::Decided(ReleaseOutcome::Lost(_)) => "lost",
    };
    tally.add(label, 1);
    usage.note_release(pending.request.account_id());
    send_reply(pending, Ok(outcome));
    None
}

/// Replies to a request to a gate. Returns the request that gives up what nobody received.
pub(super) fn deliver_gate(
    pending: Pending<GateRequest>,
    outcome: GateOutcome,
    took: Duration,
    usage: &Usage,
    tally: &mut Tally,
) -> Option<AnyRequest> {
    tally.add(outcome.label(), 1);
    let account_id = pending.request.account_id;
    let is_grant = matches!(outcome, GateOutcome::Granted(_));
    if matches!(outcome, GateOutcome::Released | GateOutcome::Broken(_)) {
        usage.note_release(account_id);
    }
    let reply = match outcome {
        GateOutcome::Granted(lease) if is_too_late(took, lease.expires_in_ms) => {
            Err(EngineError::Unknown)
        }
        outcome => Ok(outcome),
    };
    let (GateOperation::Acquire(place)
    | GateOperation::Confirm(place)
    | GateOperation::Leave(place)) = pending.request.operation.clone()
    else {
        send_reply(pending, reply);
        return None;
    };
    let abandonment = pending.request.abandonment(&place);
    let mut event = None;
    if is_grant {
        usage.note_grant(account_id, place.acquire.max_live_locks);
        // A waiter says itself how long it waited.
        if let (0, Ok(GateOutcome::Granted(lease))) = (place.attachment, &reply) {
            event = events::granted(&place.acquire, lease);
        }
    }
    // A waiter whose answer is late asks again; one that has gone gives up its place itself.
    let is_answered = reply.is_ok() || place.attachment != 0;
    let is_received = send_reply(pending, reply) && is_answered;
    let is_given_up = is_grant && !is_received && !place.acquire.needs_proof;
    if is_given_up {
        return Some(abandonment);
    }
    tally.events.extend(event);
    None
}

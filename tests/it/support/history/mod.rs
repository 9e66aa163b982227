//! The calls of concurrent clients of one lock, and whether the promises held.
//!
//! Clients record each call: when it began and ended on the one monotonic clock that they share,
//! and its outcome, "unknown" if none was received. [`History::violations`] then looks for a
//! contradiction. It never guesses: a lease is *certainly* held from the end of the call that
//! granted it until its length after the *beginning* of the last call that renewed it, or until
//! somebody began to release it, or may have shortened it; it is *possibly* held from the beginning
//! of the first call until its length (and the grace of an outage) after the end of the last one
//! that might have renewed it, or the end of its release.
//!
//! A lease without an id is known by its fencing token, and every process of its account may renew
//! and release it. A call that was answered as unknown has its effect before the answer or never;
//! one whose client heard nothing may have it for some time after the client went away.

mod check;
mod seeing;
mod seeing_shared;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use uuid::Uuid;

use check::check;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Acquire,
    Heartbeat,
    Release,
}

/// The outcome of a request, as its client received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An acquire or heartbeat that holds the lock, with this fencing token.
    Held { fencing_token: i64 },
    /// A release that freed it, now or before.
    Released,
    /// An acquire that was refused, because another lease holds the lock.
    Refused,
    /// This lease has ended, or there never was one.
    Lost,
    /// The service says that nothing is known: what did not have its effect by now never has it.
    Unknown,
    /// The client heard nothing and went away: it may still have its effect.
    Unheard,
}

/// What is asked of the service.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) lock: String,
    pub(crate) account: i64,
    /// `None`: about a lease without an id of its client's, as any process of the account may ask.
    pub(crate) lease_id: Option<Uuid>,
    pub(crate) operation: Operation,
    /// `None`: that of the rules.
    pub(crate) length: Option<Duration>,
}

impl Request {
    /// A request with a lease id of the client's own.
    pub(crate) fn with_id(lock: &str, lease_id: Uuid, operation: Operation) -> Request {
        Request {
            lock: lock.to_owned(),
            account: 1,
            lease_id: Some(lease_id),
            operation,
            length: None,
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) request: Request,
    /// Since the start of the history.
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
}

/// The calls of all clients.
#[derive(Debug)]
pub(crate) struct History {
    started: Instant,
    calls: Mutex<Vec<Call>>,
}

/// The properties of the service that the checker has to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The length of leases and renewals of which the request names none.
    pub(crate) lease: Duration,
    /// By how much an outage may lengthen a lease that was not renewed: the outage itself and its
    /// grace.
    pub(crate) outage: Duration,
    /// How long after its client went away a request may have its effect.
    pub(crate) late: Duration,
    /// How long a grant without an id may last that was answered as unknown.
    pub(crate) compensation: Duration,
}

impl Rules {
    /// Rules for a service whose clients hear every answer.
    pub(crate) fn new(lease: Duration, outage: Duration) -> Rules {
        Rules {
            lease,
            outage,
            late: Duration::ZERO,
            compensation: Duration::MAX,
        }
    }
}

impl History {
    pub(crate) fn new() -> History {
        History {
            started: Instant::now(),
            calls: Mutex::default(),
        }
    }

    /// Waits for the outcome of a call, and records both.
    pub(crate) async fn record(
        &self,
        request: Request,
        call: impl Future<Output = Outcome>,
    ) -> Outcome {
        let began = self.started.elapsed();
        let outcome = call.await;
        let ended = self.started.elapsed();
        let call = Call {
            request,
            began,
            ended,
            outcome,
        };
        self.calls.lock().unwrap().push(call);
        outcome
    }

    /// The number of calls that a predicate selects.
    pub(crate) fn count(&self, wanted: impl Fn(&Call) -> bool) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|call| wanted(call))
            .count()
    }

    /// Every contradiction, a line each.
    pub(crate) fn violations(&self, rules: Rules) -> Vec<String> {
        let mut locks: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        for call in self.calls.lock().unwrap().iter() {
            locks
                .entry(call.request.lock.clone())
                .or_default()
                .push(call.clone());
        }
        locks
            .into_iter()
            .flat_map(|(lock, calls)| check(&lock, calls, rules))
            .collect()
    }

    /// Panics with the first contradictions, if there are any.
    #[track_caller]
    pub(crate) fn assert_holds(&self, rules: Rules) {
        let violations = self.violations(rules);
        let first = violations
            .iter()
            .take(10)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n");
        assert!(
            violations.is_empty(),
            "{} contradictions:\n{first}",
            violations.len()
        );
    }
}

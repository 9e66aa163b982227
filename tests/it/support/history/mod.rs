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
//!
//! A request that waits is one call. The order of waiters is not to be seen in calls alone: tests
//! about it keep a [`Register`] of the database's tickets and leases, and
//! [`History::violations_of_order`] compares both.

mod check;
mod order;
mod register;
mod rules;
mod seeing;
mod seeing_order;
mod seeing_shared;
mod seeing_waiting;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use lockable::locks::Mode;
use uuid::Uuid;

use check::check;
pub(crate) use register::Register;

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
    /// An acquire that was refused, because another lease holds the lock or waiters are before it.
    Refused,
    /// An acquire that was refused, because the lock is in use in another mode.
    Conflicting,
    /// This lease has ended, or there never was one.
    Lost,
    /// The service says that nothing is known: what did not have its effect by now never has it.
    Unknown,
    /// The client heard nothing and went away: it may still have its effect.
    Unheard,
}

/// What a client learns of its lease, beside the fencing token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) slot: Option<i32>,
    /// How long the request waited, and how long the lease then lasted.
    pub(crate) waited: Duration,
    pub(crate) expires_in: Duration,
    /// On the database's clock.
    pub(crate) expires_at: DateTime<Utc>,
}

/// All that a client is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) grant: Option<Grant>,
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Answer {
        Answer {
            outcome,
            grant: None,
        }
    }
}

/// What is asked of the service.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) lock: String,
    pub(crate) account: i64,
    /// `None`: about a lease without an id of its client's, as any process of the account may ask.
    pub(crate) lease_id: Option<Uuid>,
    /// The id that is drawn for the lease if the client has none, for those who look into the
    /// database.
    pub(crate) drawn_id: Uuid,
    pub(crate) operation: Operation,
    /// `None`: that of the rules.
    pub(crate) length: Option<Duration>,
    pub(crate) mode: Mode,
    /// How long an acquire waits.
    pub(crate) wait: Duration,
}

impl Request {
    pub(crate) fn new(
        lock: &str,
        account: i64,
        lease_id: Option<Uuid>,
        operation: Operation,
    ) -> Request {
        Request {
            lock: lock.to_owned(),
            account,
            lease_id,
            drawn_id: Uuid::new_v4(),
            operation,
            length: None,
            mode: Mode::Exclusive,
            wait: Duration::ZERO,
        }
    }

    /// A request with a lease id of the client's own.
    pub(crate) fn with_id(lock: &str, lease_id: Uuid, operation: Operation) -> Request {
        Request::new(lock, 1, Some(lease_id), operation)
    }

    /// The id of the lease in the database.
    pub(crate) fn row_id(&self) -> Uuid {
        self.lease_id.unwrap_or(self.drawn_id)
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
    /// What else the client learnt, if it is one that looks.
    pub(crate) grant: Option<Grant>,
}

/// The calls of all clients.
#[derive(Debug)]
pub(crate) struct History {
    started: Instant,
    /// The same instant on the clock that the database has too.
    started_at: DateTime<Utc>,
    calls: Mutex<Vec<Call>>,
}

/// A call that has begun. It ends when this is dropped, by its client or because it was answered.
struct Record<'a> {
    history: &'a History,
    request: Request,
    began: Duration,
    answer: Answer,
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        let call = Call {
            request: self.request.clone(),
            began: self.began,
            ended: self.history.started.elapsed(),
            outcome: self.answer.outcome,
            grant: self.answer.grant,
        };
        self.history.calls.lock().unwrap().push(call);
    }
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
    /// How long a grant without an id may last that was answered as unknown, or whose client went
    /// away while its node lived.
    pub(crate) compensation: Duration,
}

impl Rules {
    /// The length that a call grants or renews by.
    fn length(&self, call: &Call) -> Duration {
        call.request.length.unwrap_or(self.lease)
    }

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
            started_at: Utc::now(),
            calls: Mutex::default(),
        }
    }

    /// Waits for the outcome of a call, and records both. A call that is given up, because this
    /// future is dropped, is recorded as one whose client heard nothing.
    pub(crate) async fn record<A: Into<Answer>>(
        &self,
        request: Request,
        call: impl Future<Output = A>,
    ) -> Outcome {
        let mut record = Record {
            history: self,
            request,
            began: self.started.elapsed(),
            answer: Outcome::Unheard.into(),
        };
        record.answer = call.await.into();
        record.answer.outcome
    }

    /// The lease ids, as the database has them, of the calls that a predicate selects.
    pub(crate) fn row_ids(&self, wanted: impl Fn(&Call) -> bool) -> Vec<Uuid> {
        let calls = self.calls.lock().unwrap();
        let wanted = calls.iter().filter(|call| wanted(call));
        wanted.map(|call| call.request.row_id()).collect()
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
            .flat_map(|(lock, calls)| check(&lock, calls, rules, self.started_at))
            .collect()
    }

    /// Every contradiction between the calls and the order of the database's tickets and leases.
    pub(crate) fn violations_of_order(&self, register: &Register, rules: Rules) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        order::check(register, &calls, self.started_at, rules)
    }

    /// Panics with the first contradictions, if there are any.
    #[track_caller]
    pub(crate) fn assert_holds(&self, rules: Rules) {
        assert_none(&self.violations(rules));
    }

    /// The same, with those of the order of waiters.
    #[track_caller]
    pub(crate) fn assert_holds_in_order(&self, register: &Register, rules: Rules) {
        let mut violations = self.violations(rules);
        violations.extend(self.violations_of_order(register, rules));
        assert_none(&violations);
    }
}

#[track_caller]
fn assert_none(violations: &[String]) {
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

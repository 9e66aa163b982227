//! Looks for contradictions in the calls about one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use lockable::locks::Mode;
use uuid::Uuid;

use super::{Call, Operation, Outcome, Rules, rules};

/// One lease, as far as its calls tell.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) name: String,
    /// `None` for a lease without an id of its client's.
    pub(super) id: Option<Uuid>,
    pub(super) token: Option<i64>,
    pub(super) mode: Mode,
    pub(super) slot: Option<i32>,
    /// It is certain that it held the lock in this time.
    pub(super) certain: Option<(Duration, Duration)>,
    /// It is possible that it held the lock in this time.
    pub(super) possible: Option<(Duration, Duration)>,
    /// It may have waited in these times, and been before others.
    pub(super) waits: Vec<(Duration, Duration)>,
    /// The calls that held it, and the first one that released it if it has an id.
    pub(super) acts: Vec<Call>,
    /// The beginning of the first call that may have been granted it.
    pub(super) asked: Option<Duration>,
    pub(super) refused: Vec<Call>,
}

/// Every contradiction in the calls about one lock, a line each.
pub(super) fn check(
    lock: &str,
    mut calls: Vec<Call>,
    rules: Rules,
    started_at: DateTime<Utc>,
) -> Vec<String> {
    calls.sort_by_key(|call| call.began);
    let mut wrong = Vec::new();
    rules::waits(lock, &calls, started_at, &mut wrong);
    let mut with_id: BTreeMap<(i64, Uuid), Vec<Call>> = BTreeMap::new();
    let mut without_id: BTreeMap<i64, Vec<Call>> = BTreeMap::new();
    for call in calls {
        let account = call.request.account;
        match call.request.lease_id {
            Some(id) => with_id.entry((account, id)).or_default().push(call),
            None => without_id.entry(account).or_default().push(call),
        }
    }
    let mut leases = Vec::new();
    for ((_, id), calls) in with_id {
        let evidence = Evidence::of_id(lock, id, calls, rules);
        leases.push(evidence.lease(&mut wrong));
    }
    for (account, calls) in without_id {
        for evidence in Evidence::of_account(lock, account, &calls, rules) {
            leases.push(evidence.lease(&mut wrong));
        }
    }
    rules::order_of_tokens(lock, &leases, &mut wrong);
    rules::exclusion(lock, &leases, &mut wrong);
    rules::refusals(lock, &leases, &mut wrong);
    wrong
}

/// All calls that may have touched one lease, in the order of their beginnings.
struct Evidence<'a> {
    lock: &'a str,
    name: String,
    id: Option<Uuid>,
    rules: Rules,
    /// They held it.
    held: Vec<Call>,
    /// Those that may have: without an outcome, of a lease whose grant nobody need have received.
    in_doubt: Vec<Call>,
    /// They may have renewed or ended it, or say that it has ended.
    others: Vec<Call>,
}

fn is_held(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Held { .. })
}

fn is_refused(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Refused | Outcome::Conflicting)
}

fn is_unknown(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Unknown | Outcome::Unheard)
}

/// True if the call may have granted or renewed a lease of this length before it was told that
/// there is none: the node was not answered, asked again, and by then the lease had lapsed.
fn may_have_lapsed(call: &Call, length: Duration) -> bool {
    call.request.operation != Operation::Release
        && call.request.wait.is_zero()
        && (call.outcome == Outcome::Lost || is_refused(call))
        && call.began + length <= call.ended
}

fn token(call: &Call) -> Option<i64> {
    match call.outcome {
        Outcome::Held { fencing_token } => Some(fencing_token),
        _ => None,
    }
}

impl<'a> Evidence<'a> {
    /// What is known of the lease with an id.
    fn of_id(lock: &'a str, id: Uuid, calls: Vec<Call>, rules: Rules) -> Evidence<'a> {
        let (held, others): (Vec<_>, Vec<_>) = calls.into_iter().partition(is_held);
        let is_acquire = |call: &&Call| call.request.operation == Operation::Acquire;
        Evidence {
            lock,
            name: format!("lease {id}"),
            id: Some(id),
            rules,
            held,
            in_doubt: others
                .iter()
                .filter(is_acquire)
                .filter(|call| is_unknown(call) || may_have_lapsed(call, rules.length(call)))
                .cloned()
                .collect(),
            others,
        }
    }

    /// What is known of an account's leases without ids: one for each fencing token, and one for
    /// each acquire that may have been granted.
    fn of_account(lock: &'a str, account: i64, calls: &[Call], rules: Rules) -> Vec<Evidence<'a>> {
        let mut by_token: BTreeMap<i64, Vec<Call>> = BTreeMap::new();
        for call in calls {
            if let Some(token) = token(call) {
                by_token.entry(token).or_default().push(call.clone());
            }
        }
        let is_acquire = |call: &&Call| call.request.operation == Operation::Acquire;
        let others: Vec<Call> = calls
            .iter()
            .filter(|call| !is_held(call) && !is_acquire(call))
            .cloned()
            .collect();
        let evidence = |name: String, held: Vec<Call>, in_doubt: Vec<Call>| Evidence {
            lock,
            name,
            id: None,
            rules,
            held,
            in_doubt,
            others: others.clone(),
        };
        let mut all: Vec<_> = by_token
            .into_iter()
            .map(|(token, held)| {
                let name = format!("the lease {token} of account {account}");
                evidence(name, held, vec![])
            })
            .collect();
        for call in calls.iter().filter(is_acquire) {
            let name = format!("a lease of account {account}");
            if is_unknown(call) {
                all.push(evidence(name, vec![], vec![call.clone()]));
            } else if is_refused(call) {
                let lapsed = Some(call).filter(|call| may_have_lapsed(call, rules.length(call)));
                let mut refused = evidence(name, vec![], lapsed.cloned().into_iter().collect());
                refused.others = vec![call.clone()];
                all.push(refused);
            }
        }
        all
    }

    /// The last instant at which a call can have had its effect.
    fn effect_by(&self, call: &Call) -> Duration {
        match call.outcome {
            Outcome::Unheard => call.ended + self.rules.late,
            _ => call.ended,
        }
    }

    /// The instant until which a call that held the lease makes it live: for its length, unless a
    /// call that may have had its effect later shortened or ended the lease.
    fn lives_until(&self, held: &Call) -> Duration {
        let later = self
            .held
            .iter()
            .filter(|call| call.began != held.began || call.ended != held.ended)
            .chain(&self.others)
            .filter(|call| self.effect_by(call) >= held.began);
        // A client that waited counts from the instant up to which it did.
        let waited = held.grant.map_or(Duration::ZERO, |grant| grant.waited);
        let until = held.began + waited + self.rules.length(held);
        later.fold(until, |until, call| {
            let effect = call.began.max(held.began);
            let ends = match (call.request.operation, call.outcome) {
                (_, Outcome::Lost | Outcome::Refused | Outcome::Conflicting)
                    if !may_have_lapsed(call, self.rules.length(call)) =>
                {
                    return until;
                }
                (Operation::Release, _) => effect,
                (Operation::Acquire | Operation::Heartbeat, _) => effect + self.rules.length(call),
            };
            until.min(ends)
        })
    }

    fn certain(&self) -> Option<(Duration, Duration)> {
        let received = self.held.iter().map(|call| call.ended).min()?;
        let until = self.held.iter().map(|call| self.lives_until(call)).max()?;
        Some((received, until))
    }

    /// The end of the first call that says that the lease has ended.
    fn over(&self) -> Option<Duration> {
        let received = self.held.iter().map(|call| call.ended).min();
        self.others
            .iter()
            .filter(|call| matches!(call.outcome, Outcome::Released | Outcome::Lost))
            // Without an id, a call is about the lease that there is.
            .filter(|call| self.id.is_some() || received.is_some_and(|at| call.began > at))
            .map(|call| call.ended)
            .min()
    }

    fn possible(&self) -> Option<(Duration, Duration)> {
        let mut grants: Vec<&Call> = self.held.iter().chain(&self.in_doubt).collect();
        grants.sort_by_key(|call| call.began);
        let first = grants.first()?;
        let mut until = Duration::ZERO;
        for call in &grants {
            let length = self.rules.length(call) + self.rules.outage;
            // The service ends a grant without an id that it has not told anybody about.
            let length = match (self.id, call.outcome) {
                (None, Outcome::Unknown) => length.min(self.rules.compensation),
                _ => length,
            };
            until = until.max(if may_have_lapsed(call, length) {
                call.ended
            } else {
                self.effect_by(call) + length
            });
        }
        for call in &self.others {
            let renews = call.request.operation == Operation::Heartbeat && is_unknown(call);
            if renews && call.began <= until {
                let length = self.rules.length(call) + self.rules.outage;
                until = until.max(self.effect_by(call) + length);
            }
        }
        Some((first.began, until.min(self.over().unwrap_or(Duration::MAX))))
    }

    /// Checks what can be checked without looking at other leases.
    fn lease(self, wrong: &mut Vec<String>) -> Lease {
        let Evidence { lock, name, .. } = &self;
        let tokens: Vec<i64> = self.held.iter().filter_map(token).collect();
        if tokens.windows(2).any(|pair| pair[0] != pair[1]) {
            wrong.push(format!(
                "{lock}: {name} had several fencing tokens: {tokens:?}"
            ));
        }
        let (certain, over) = (self.certain(), self.over());
        for call in &self.held {
            if over.is_some_and(|over| call.began > over) {
                wrong.push(format!(
                    "{lock}: {name} had ended, and was held again: {call:?}"
                ));
            }
        }
        // P3 and P8: while it certainly lives, it can be renewed and released.
        for call in &self.others {
            let lives = certain.is_some_and(|(from, to)| from < call.began && call.ended < to);
            if call.outcome == Outcome::Lost && lives {
                wrong.push(format!("{lock}: {name} was lost before its time: {call:?}"));
            }
        }
        let mut acts = self.held.clone();
        // Only the first release acts; a repetition has its outcome.
        let mut releases = self
            .others
            .iter()
            .filter(|call| call.request.operation == Operation::Release);
        if let (Some(_), Some(first)) = (self.id, releases.next())
            && first.outcome == Outcome::Released
        {
            acts.push(first.clone());
        }
        let slots = self.held.iter().filter_map(|call| call.grant?.slot);
        let slots: BTreeSet<i32> = slots.collect();
        if slots.len() > 1 {
            wrong.push(format!("{lock}: {name} had several slots: {slots:?}"));
        }
        let acquires = self.held.iter().chain(&self.others);
        let acquires: Vec<_> = acquires
            .filter(|call| call.request.operation == Operation::Acquire)
            .collect();
        let may_be_granted = |call: &&&Call| is_held(call) || is_unknown(call);
        let waits = |call: &&&Call| call.request.wait > Duration::ZERO;
        Lease {
            name: self.name.clone(),
            id: self.id,
            token: tokens.first().copied(),
            mode: acquires
                .first()
                .map_or(Mode::Exclusive, |call| call.request.mode),
            slot: slots.first().copied(),
            certain,
            possible: self.possible(),
            waits: acquires
                .iter()
                .filter(waits)
                .map(|call| (call.began, self.effect_by(call)))
                .collect(),
            acts,
            asked: acquires
                .iter()
                .filter(may_be_granted)
                .map(|call| call.began)
                .min(),
            refused: self
                .others
                .iter()
                .filter(|call| is_refused(call))
                .cloned()
                .collect(),
        }
    }
}

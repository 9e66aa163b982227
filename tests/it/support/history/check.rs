//! Looks for contradictions in the calls about one lock.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use super::{Call, Operation, Outcome, Rules};

/// One lease, as far as its calls tell.
#[derive(Debug)]
struct Lease {
    name: String,
    /// `None` for a lease without an id of its client's.
    id: Option<Uuid>,
    token: Option<i64>,
    /// It is certain that nobody else held the lock in this time.
    certain: Option<(Duration, Duration)>,
    /// It is possible that it held the lock in this time.
    possible: Option<(Duration, Duration)>,
    /// The calls that held it, and the first one that released it if it has an id.
    acts: Vec<Call>,
    refused: Vec<Call>,
}

/// Every contradiction in the calls about one lock, a line each.
pub(super) fn check(lock: &str, mut calls: Vec<Call>, rules: Rules) -> Vec<String> {
    calls.sort_by_key(|call| call.began);
    let mut wrong = Vec::new();
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
    order_of_tokens(lock, &leases, &mut wrong);
    exclusion(lock, &leases, &mut wrong);
    refusals(lock, &leases, &mut wrong);
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

fn is_unknown(call: &Call) -> bool {
    matches!(call.outcome, Outcome::Unknown | Outcome::Unheard)
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
                .filter(|call| is_unknown(call))
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
            } else if call.outcome == Outcome::Refused {
                let mut refused = evidence(name, vec![], vec![]);
                refused.others = vec![call.clone()];
                all.push(refused);
            }
        }
        all
    }

    /// The length that a call grants or renews by.
    fn length(&self, call: &Call) -> Duration {
        call.request.length.unwrap_or(self.rules.lease)
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
        later.fold(held.began + self.length(held), |until, call| {
            let effect = call.began.max(held.began);
            let ends = match (call.request.operation, call.outcome) {
                (_, Outcome::Lost | Outcome::Refused) => return until,
                (Operation::Release, _) => effect,
                (Operation::Acquire | Operation::Heartbeat, _) => effect + self.length(call),
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
            let length = self.length(call) + self.rules.outage;
            // The service ends a grant without an id that it has not told anybody about.
            let length = match (self.id, call.outcome) {
                (None, Outcome::Unknown) => length.min(self.rules.compensation),
                _ => length,
            };
            until = until.max(self.effect_by(call) + length);
        }
        for call in &self.others {
            let renews = call.request.operation == Operation::Heartbeat && is_unknown(call);
            if renews && call.began <= until {
                let length = self.length(call) + self.rules.outage;
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
        Lease {
            name: self.name.clone(),
            id: self.id,
            token: tokens.first().copied(),
            certain,
            possible: self.possible(),
            acts,
            refused: self
                .others
                .into_iter()
                .filter(|call| call.outcome == Outcome::Refused)
                .collect(),
        }
    }
}

/// P4: a grant that was requested after another was received carries a greater token; and a lease
/// with a smaller token than that of a grant which was received before is over.
fn order_of_tokens(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    let mut granted: Vec<(Duration, i64, &Lease)> = leases
        .iter()
        .filter_map(|lease| Some((lease.certain?.0, lease.token?, lease)))
        .collect();
    granted.sort_by_key(|(received, token, _)| (*received, *token));
    // The greatest token that was received up to each instant.
    let greatest_before = |instant: Duration| {
        let known = granted.partition_point(|(received, _, _)| *received < instant);
        granted[..known]
            .iter()
            .max_by_key(|(_, token, _)| *token)
            .copied()
    };
    let mut lease_by_token = BTreeMap::new();
    for (_, token, lease) in &granted {
        if let Some(other) = lease_by_token.insert(token, &lease.name) {
            wrong.push(format!(
                "{lock}: {other} and {} have the same fencing token {token}",
                lease.name
            ));
        }
        for call in &lease.acts {
            if let Some((_, greater, other)) = greatest_before(call.began)
                && greater > *token
            {
                wrong.push(format!(
                    "{lock}: fencing token {greater} had been received ({}), \
                     and {token} acted after it: {call:?}",
                    other.name
                ));
            }
        }
    }
}

/// P1: no two leases are certainly held at one instant.
fn exclusion(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    let mut holds: Vec<(Duration, Duration, &str)> = leases
        .iter()
        .filter_map(|lease| {
            lease
                .certain
                .map(|(from, to)| (from, to, lease.name.as_str()))
        })
        .filter(|(from, to, _)| from < to)
        .collect();
    holds.sort();
    let mut latest: Option<(Duration, Duration, &str)> = None;
    for hold in holds {
        if let Some(before) = latest
            && hold.0 < before.1
        {
            wrong.push(format!(
                "{lock}: two leases at once: {before:?} and {hold:?}"
            ));
        }
        if latest.is_none_or(|before| hold.1 > before.1) {
            latest = Some(hold);
        }
    }
}

/// P8: while an acquire was refused, another lease was possibly held.
fn refusals(lock: &str, leases: &[Lease], wrong: &mut Vec<String>) {
    for lease in leases {
        for call in &lease.refused {
            let held_by_another = leases.iter().any(|other| {
                (other.id.is_none() || other.id != lease.id)
                    && other
                        .possible
                        .is_some_and(|(from, to)| from < call.ended && call.began < to)
            });
            if !held_by_another {
                wrong.push(format!(
                    "{lock}: refused while nobody can have held it: {call:?}"
                ));
            }
        }
    }
}

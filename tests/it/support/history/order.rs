//! P7: the order of waiters, as tickets have it, and nobody lost or granted twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::register::{LeaseRow, Register, RowVersion, TicketRow, Version};
use super::{Call, Operation, Outcome, Rules};

/// An account and a lease id: with the lock, what a lease is found by.
type Owner = (i64, Uuid);

/// A node looks twice a second. One that certainly lives has a look of this age, at most and at
/// least: a newer one may not have been committed when the database looked for it.
const LOOK_AGE_MS: (i64, i64) = (700, 2400);
/// An own ticket that is granted without a claim goes in the same transaction.
const ONE_TRANSACTION: TimeDelta = TimeDelta::seconds(1);
/// A client may be answered this long after the database has decided, without having been there.
const ON_THE_WAY: TimeDelta = TimeDelta::milliseconds(500);

/// The start of a lease.
#[derive(Debug, Clone, Copy)]
struct Granted {
    token: i64,
    owner: Owner,
    at: DateTime<Utc>,
    ticket: Option<i64>,
    is_claim: bool,
}

/// The register of one lock.
#[derive(Default)]
struct Lock<'a> {
    tickets: BTreeMap<i64, Vec<(&'a Version, &'a TicketRow)>>,
    leases: Vec<(&'a Version, &'a LeaseRow)>,
}

/// When a look was written, and the instant that it has; `None` where the node was declared dead.
type Look = (DateTime<Utc>, Option<DateTime<Utc>>);

struct Nodes<'a> {
    /// Of each node, in order.
    looks: HashMap<i64, Vec<Look>>,
    register: &'a Register,
}

/// Every contradiction, a line each.
pub(super) fn check(
    register: &Register,
    calls: &[Call],
    started_at: DateTime<Utc>,
    rules: Rules,
) -> Vec<String> {
    let mut locks: BTreeMap<&str, Lock<'_>> = BTreeMap::new();
    let mut looks: HashMap<i64, Vec<_>> = HashMap::new();
    for version in &register.versions {
        match &version.row {
            RowVersion::Ticket(row) => {
                let tickets = &mut locks.entry(&row.name).or_default().tickets;
                tickets.entry(row.ticket).or_default().push((version, row));
            }
            RowVersion::Lease(row) => {
                let lock = locks.entry(&row.name).or_default();
                lock.leases.push((version, row));
            }
            RowVersion::Node(row) => {
                let looks = looks.entry(row.node_id).or_default();
                looks.push((version.at, row.looked_at));
            }
        }
    }
    for looks in looks.values_mut() {
        looks.sort_by_key(|(written, _)| *written);
    }
    let nodes = Nodes { looks, register };
    let mut wrong = Vec::new();
    for (name, lock) in &locks {
        let mut by_owner: HashMap<Owner, Vec<&Call>> = HashMap::new();
        for call in calls.iter().filter(|call| call.request.lock == *name) {
            let owner = (call.request.account, call.request.row_id());
            by_owner.entry(owner).or_default().push(call);
        }
        let check = Check {
            name,
            lock,
            nodes: &nodes,
            calls: by_owner,
            started_at,
            rules,
        };
        check.members(&mut wrong);
        let granted = lock.granted();
        check.passed(&granted, &mut wrong);
        check.received(&granted, &mut wrong);
        check.places(&mut wrong);
    }
    wrong
}

impl Lock<'_> {
    /// Every grant, in the order of fencing tokens.
    fn granted(&self) -> Vec<Granted> {
        let mut granted: BTreeMap<i64, Granted> = BTreeMap::new();
        for (number, versions) in &self.tickets {
            for (version, row) in versions {
                let Some(token) = row.claim_token else {
                    continue;
                };
                granted.entry(token).or_insert(Granted {
                    token,
                    owner: (row.account_id, row.lease_id),
                    at: version.at,
                    ticket: Some(*number),
                    is_claim: true,
                });
            }
        }
        for (_, row) in &self.leases {
            // Account 0 is nobody; reason 4 is the mark of a release that came first.
            if row.account_id == 0 || row.end_reason == 4 {
                continue;
            }
            let owner = (row.account_id, row.lease_id);
            granted.entry(row.fencing_token).or_insert_with(|| Granted {
                token: row.fencing_token,
                owner,
                at: row.acquired_at,
                ticket: self.ticket_of(owner, row.acquired_at),
                is_claim: false,
            });
        }
        granted.into_values().collect()
    }

    /// The place that an owner had when it was granted a lease without a claim.
    fn ticket_of(&self, owner: Owner, at: DateTime<Utc>) -> Option<i64> {
        let is_its = |versions: &[(&Version, &TicketRow)]| {
            let (last, row) = versions[versions.len() - 1];
            let (first, _) = versions[0];
            (row.account_id, row.lease_id) == owner
                && first.at < at
                && (!last.is_deleted || last.at > at - ONE_TRANSACTION)
        };
        let mut tickets = self.tickets.iter().rev();
        tickets
            .find(|(_, versions)| is_its(versions))
            .map(|(ticket, _)| *ticket)
    }

    /// The instant at which a lease ended, if it did not last to the end that it had.
    fn ended_early(&self, granted: &Granted) -> Option<DateTime<Utc>> {
        let mut last = None;
        for (version, row) in &self.leases {
            if row.fencing_token == granted.token {
                last = Some((row.slot, row.expires_at));
                if matches!(row.end_reason, 1 | 2) {
                    return Some(row.expires_at);
                }
            } else if let Some((slot, expires_at)) = last
                && slot == row.slot
            {
                // Its row has another lease now, or nobody's.
                let until = version.at.min(if row.account_id == 0 {
                    version.at
                } else {
                    row.acquired_at
                });
                return (until < expires_at).then_some(until);
            }
        }
        // Ended by the transaction that granted it: no version has it.
        last.is_none().then_some(granted.at)
    }
}

impl Nodes<'_> {
    /// True if a node was alive by the rule, whichever of its latest looks were committed.
    fn certainly_lives(&self, node: i64, at: DateTime<Utc>) -> bool {
        let Some(looks) = self.looks.get(&node) else {
            return false;
        };
        let known = looks.partition_point(|(written, _)| *written < at);
        let looked_within = |from: DateTime<Utc>, to: DateTime<Utc>| {
            looks[..known]
                .iter()
                .any(|(_, looked)| looked.is_some_and(|looked| from < looked && looked < to))
        };
        let was_declared_dead = looks[..known]
            .iter()
            .rev()
            .take_while(|(written, _)| at - *written < TimeDelta::milliseconds(LOOK_AGE_MS.1))
            .any(|(_, looked)| looked.is_none());
        let ago = |ms| at - TimeDelta::milliseconds(ms);
        if was_declared_dead {
            return false;
        }
        // For ten seconds after an outage, the last look before it counts.
        let lived_before_outage = self.register.outage.is_some_and(|(start, end)| {
            (end..end + TimeDelta::seconds(9)).contains(&at)
                && looked_within(start - TimeDelta::milliseconds(LOOK_AGE_MS.1), start)
        });
        lived_before_outage || looked_within(ago(LOOK_AGE_MS.1), ago(LOOK_AGE_MS.0))
    }
}

struct Check<'a> {
    name: &'a str,
    lock: &'a Lock<'a>,
    nodes: &'a Nodes<'a>,
    /// The calls of each lease, in the order of their ends.
    calls: HashMap<Owner, Vec<&'a Call>>,
    started_at: DateTime<Utc>,
    rules: Rules,
}

impl Check<'_> {
    fn began(&self, call: &Call) -> DateTime<Utc> {
        self.started_at + call.began
    }

    fn ended(&self, call: &Call) -> DateTime<Utc> {
        self.started_at + call.ended
    }

    /// True if a ticket certainly stood in the line at an instant, of a waiter on a live node.
    fn waits(&self, versions: &[(&Version, &TicketRow)], at: DateTime<Utc>) -> bool {
        let known = versions.partition_point(|(version, _)| version.at < at);
        let Some((version, row)) = versions[..known].last() else {
            return false;
        };
        !version.is_deleted
            && row.claim_token.is_none()
            && !row.is_detached
            && row.waits_until > at
            && self.nodes.certainly_lives(row.node_id, at)
    }

    /// Nobody is granted a lease before a waiter whose ticket is smaller than his, or who has a
    /// ticket where he has none.
    fn passed(&self, granted: &[Granted], wrong: &mut Vec<String>) {
        // Tickets that were granted, or are gone for good, need no look any more.
        let mut first = i64::MIN;
        for grant in granted {
            let until = grant.ticket.unwrap_or(i64::MAX);
            let mut is_first_open = true;
            for (ticket, versions) in self.lock.tickets.range(first..) {
                if *ticket >= until {
                    break;
                }
                let (last, row) = versions[versions.len() - 1];
                let is_over = last.at < grant.at && (last.is_deleted || row.is_detached);
                if is_over {
                    if is_first_open {
                        first = *ticket + 1;
                    }
                    continue;
                }
                is_first_open = false;
                if self.waits(versions, grant.at) {
                    wrong.push(format!(
                        "{}: ticket {ticket} ({}) waited and was passed by {grant:?}",
                        self.name, row.lease_id
                    ));
                    break;
                }
            }
        }
    }

    /// At most as many shared leases and permits as fit are unexpired at once, each with its own
    /// slot, and none beside an exclusive lease.
    fn members(&self, wrong: &mut Vec<String>) {
        struct Span {
            from: DateTime<Utc>,
            until: DateTime<Utc>,
            permits: i32,
            slot: Option<i32>,
            token: i64,
        }
        let mut spans: BTreeMap<i64, Span> = BTreeMap::new();
        // Exclusive leases whose row another one took over, or nobody.
        let mut taken_over = Vec::new();
        let mut last_exclusive = None;
        for (version, row) in &self.lock.leases {
            let token = row.fencing_token;
            if row.slot.is_none() {
                let before = last_exclusive.replace(token);
                taken_over.extend(before.filter(|before| *before != token));
            }
            if row.account_id == 0 || row.end_reason == 4 {
                continue;
            }
            let ends = match row.end_reason {
                0 => row.expires_at,
                _ => row.expires_at.min(version.at),
            };
            let span = spans.entry(token).or_insert(Span {
                from: row.acquired_at,
                until: ends,
                permits: row.permits,
                slot: row.slot,
                token,
            });
            span.until = ends;
        }
        // Whether such a lease was released, its row does not tell: the calls do. It ended before
        // the next one began.
        for token in taken_over {
            let next = spans.range(token + 1..).next().map(|(_, next)| next.from);
            if let (Some(span), Some(next)) = (spans.get_mut(&token), next) {
                span.until = span.until.min(next);
            }
        }
        let mut spans: Vec<Span> = spans.into_values().collect();
        spans.sort_by_key(|span| span.from);
        let mut live: Vec<&Span> = Vec::new();
        for span in &spans {
            live.retain(|before| span.from < before.until);
            for other in &live {
                let rule = if span.permits != other.permits || span.permits == 1 {
                    "unexpired at once"
                } else if span.slot == other.slot {
                    "unexpired in one slot"
                } else {
                    continue;
                };
                wrong.push(format!(
                    "{}: leases {} and {} were {rule} at {}",
                    self.name, other.token, span.token, span.from
                ));
            }
            live.push(span);
            if span.permits > 1 && i32::try_from(live.len()).unwrap() > span.permits {
                wrong.push(format!(
                    "{}: {} unexpired permits of {} at {}",
                    self.name,
                    live.len(),
                    span.permits,
                    span.from
                ));
            }
        }
    }

    /// Nobody is granted a lease who left, and nobody is left with a lease that he does not know
    /// of.
    fn received(&self, granted: &[Granted], wrong: &mut Vec<String>) {
        for grant in granted {
            let acquires: Vec<&&Call> = self
                .calls
                .get(&grant.owner)
                .into_iter()
                .flatten()
                .filter(|call| call.request.operation == Operation::Acquire)
                .collect();
            let is_told = acquires.iter().any(|call| {
                matches!(call.outcome, Outcome::Held { fencing_token }
                    if fencing_token == grant.token)
            });
            if acquires.is_empty() || is_told {
                continue;
            }
            let name = self.name;
            let late = TimeDelta::from_std(self.rules.late).unwrap();
            let waited_for = acquires.iter().filter(|call| {
                let until = match call.outcome {
                    Outcome::Unheard => self.ended(call) + late,
                    _ => self.ended(call),
                };
                self.began(call) <= grant.at && grant.at <= until
            });
            let outcomes: Vec<Outcome> = waited_for.map(|call| call.outcome).collect();
            if outcomes.is_empty() {
                wrong.push(format!("{name}: granted to one who had left: {grant:?}"));
                continue;
            }
            let ended_early = self.lock.ended_early(grant);
            let is_unknown = |outcome| matches!(outcome, Outcome::Unknown | Outcome::Unheard);
            let is_plain = acquires.iter().all(|call| call.request.lease_id.is_none());
            if outcomes.iter().all(|outcome| !is_unknown(*outcome)) {
                // A claim that nobody confirmed is as if it had not been granted.
                if !grant.is_claim || self.was_confirmed(grant) {
                    wrong.push(format!("{name}: granted, and told {outcomes:?}: {grant:?}"));
                }
            } else if is_plain && self.rules.compensation < Duration::MAX {
                let latest = acquires.iter().map(|call| self.ended(call)).max();
                let latest = latest.map(|at| at.max(grant.at) + self.rules.compensation);
                let ended = match ended_early {
                    None if grant.is_claim && !self.was_confirmed(grant) => self.lapsed(grant),
                    ended => ended,
                };
                if ended.is_none_or(|at| latest.is_some_and(|latest| at > latest)) {
                    wrong.push(format!(
                        "{name}: nobody was told of it, and it ended {ended:?}: {grant:?}"
                    ));
                }
            }
        }
    }

    /// The end that a lease had at last.
    fn lapsed(&self, grant: &Granted) -> Option<DateTime<Utc>> {
        let mut versions = self.lock.leases.iter().rev();
        versions
            .find(|(_, row)| row.fencing_token == grant.token)
            .map(|(_, row)| row.expires_at)
    }

    /// True if a claim became a whole lease: its ticket was deleted, and its lease not ended then.
    fn was_confirmed(&self, grant: &Granted) -> bool {
        let Some(versions) = grant
            .ticket
            .and_then(|number| self.lock.tickets.get(&number))
        else {
            return true;
        };
        let (last, row) = versions[versions.len() - 1];
        let is_withdrawn = !last.is_deleted || row.claim_token != Some(grant.token);
        let ended = self.lock.ended_early(grant);
        !is_withdrawn && ended.is_none_or(|ended| ended > last.at)
    }

    /// A waiter keeps its place while its request is there and its node lives.
    fn places(&self, wrong: &mut Vec<String>) {
        let mut reported = BTreeSet::new();
        for (ticket, versions) in &self.lock.tickets {
            for pair in versions.windows(2) {
                let ((_, before), (version, row)) = (pair[0], pair[1]);
                let at = version.at;
                let is_lost = row.is_detached || version.is_deleted;
                if before.is_detached || before.claim_token.is_some() || !is_lost {
                    continue;
                }
                let owner = (row.account_id, row.lease_id);
                let calls = self.calls.get(&owner);
                let waits = calls.into_iter().flatten().any(|call| {
                    let time_up = self.began(call) + call.request.wait;
                    call.request.operation == Operation::Acquire
                        && self.began(call) + ON_THE_WAY < at
                        && at + ON_THE_WAY < self.ended(call)
                        && at < time_up
                });
                // A release of the lease id ends its waiting too; and where several requests have
                // it, one may leave while another is on its way.
                let others = calls.into_iter().flatten().any(|call| {
                    call.request.operation == Operation::Release && self.began(call) < at
                        || call.outcome == Outcome::Unheard
                }) || calls.is_some_and(|calls| {
                    let acquires = calls
                        .iter()
                        .filter(|call| call.request.operation == Operation::Acquire);
                    acquires.count() > 1
                });
                let lives = self.nodes.certainly_lives(row.node_id, at);
                if waits && !others && lives && reported.insert(*ticket) {
                    wrong.push(format!(
                        "{}: ticket {ticket} ({}) lost its place at {at}: {row:?}",
                        self.name, row.lease_id
                    ));
                }
            }
        }
    }
}

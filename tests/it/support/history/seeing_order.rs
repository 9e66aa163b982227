//! The checker sees what is wrong with the order of tickets, and with grants that nobody received;
//! and only that.

use chrono::TimeDelta;

use super::register::{LeaseRow, NodeRow, RowVersion, TicketRow, Version};
use super::*;
use Operation::Acquire;
use Outcome::{Refused, Unheard, Unknown};

const RULES: Rules = Rules {
    lease: Duration::from_secs(60),
    outage: Duration::ZERO,
    late: Duration::from_millis(500),
    compensation: Duration::from_secs(1),
};
const NODE: i64 = 7;
const DEAD: i64 = 8;

/// A made-up database and its clients. Times are milliseconds from the start.
struct Story {
    history: History,
    register: Register,
}

impl Story {
    /// A node looks twice a second, another one never does.
    fn new() -> Story {
        let mut story = Story {
            history: History::new(),
            register: Register::default(),
        };
        for at in (0..10_000).step_by(500) {
            story.look(at, NODE, true);
        }
        story
    }

    fn at(&self, ms: i64) -> DateTime<Utc> {
        self.history.started_at + TimeDelta::milliseconds(ms)
    }

    fn write(&mut self, ms: i64, is_deleted: bool, row: RowVersion) {
        let at = self.at(ms);
        self.register.versions.push(Version {
            at,
            is_deleted,
            row,
        });
    }

    fn look(&mut self, ms: i64, node_id: i64, looked: bool) {
        let looked_at = looked.then(|| self.at(ms));
        let row = RowVersion::Node(NodeRow { node_id, looked_at });
        self.write(ms, false, row);
    }

    /// A version of a ticket. It has the number of its lease id.
    fn ticket(&mut self, ms: i64, ticket: u32, change: impl Fn(&mut TicketRow)) {
        let mut row = TicketRow {
            name: "l".to_owned(),
            ticket: ticket.into(),
            account_id: 1,
            lease_id: Uuid::from_u128(ticket.into()),
            node_id: NODE,
            waits_until: self.at(9000),
            claim_token: None,
            is_detached: false,
        };
        change(&mut row);
        self.write(ms, false, RowVersion::Ticket(row));
    }

    fn joins(&mut self, ms: i64, ticket: u32) {
        self.ticket(ms, ticket, |_| {});
    }

    fn claim(&mut self, ms: i64, ticket: u32, token: i64) {
        self.ticket(ms, ticket, |row| row.claim_token = Some(token));
    }

    /// The last version of a ticket, of a claim or of a waiter.
    fn deletes(&mut self, ms: i64, ticket: u32, token: Option<i64>) {
        self.ticket(ms, ticket, |row| row.claim_token = token);
        self.register.versions.last_mut().unwrap().is_deleted = true;
    }

    /// A version of a lease: written at, id, fencing token, acquired and ends at.
    fn lease(&mut self, ms: i64, id: u128, token: i64, (from, to): (i64, i64), reason: i16) {
        self.member(ms, id, token, (from, to), reason, (1, None));
    }

    fn member(
        &mut self,
        ms: i64,
        id: u128,
        token: i64,
        (from, to): (i64, i64),
        end_reason: i16,
        (permits, slot): (i32, Option<i32>),
    ) {
        let row = LeaseRow {
            name: "l".to_owned(),
            account_id: 1,
            lease_id: Uuid::from_u128(id),
            fencing_token: token,
            acquired_at: self.at(from),
            expires_at: self.at(to),
            end_reason,
            permits,
            slot,
        };
        self.write(ms, false, RowVersion::Lease(row));
    }

    fn call(&mut self, id: u128, is_own: bool, (began, ended): (u64, u64), outcome: Outcome) {
        let id = Uuid::from_u128(id);
        self.history.calls.lock().unwrap().push(Call {
            request: Request {
                drawn_id: id,
                wait: Duration::from_secs(9),
                ..Request::new("l", 1, is_own.then_some(id), Acquire)
            },
            began: Duration::from_millis(began),
            ended: Duration::from_millis(ended),
            outcome,
            grant: None,
        });
    }

    #[track_caller]
    fn right(&self) {
        let found = self.history.violations_of_order(&self.register, RULES);
        assert_eq!(found, Vec::<String>::new());
    }

    #[track_caller]
    fn wrong(&self, expected: &str) {
        let found = self.history.violations_of_order(&self.register, RULES);
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{found:?}"
        );
    }
}

fn held(fencing_token: i64) -> Outcome {
    Outcome::Held { fencing_token }
}

/// Ticket 1 and ticket 2 join; this one is granted at once, that one later.
fn granted_first(first: u32, second: u32) -> Story {
    let mut story = Story::new();
    story.joins(1000, 1);
    story.joins(1100, 2);
    story.claim(3000, first, 11);
    story.claim(4000, second, 12);
    story
}

#[test]
fn waiters_in_and_out_of_order() {
    granted_first(1, 2).right();
    granted_first(2, 1).wrong("was passed");
}

#[test]
fn a_newcomer_before_a_waiter() {
    for (acquired, passes) in [(900, false), (3000, true)] {
        let mut story = Story::new();
        story.joins(1000, 1);
        story.lease(3100, 9, 11, (acquired, 60_000), 0);
        if passes {
            story.wrong("was passed");
        } else {
            story.right();
        }
    }
}

/// A repeated request that is granted at once has the place of its ticket.
#[test]
fn a_waiter_that_is_granted_without_a_claim() {
    for (id, is_own) in [(1, true), (2, false)] {
        let mut story = Story::new();
        story.joins(1000, 1);
        story.joins(1100, 2);
        story.deletes(2999, id, None);
        story.lease(3001, id.into(), 11, (3000, 60_000), 0);
        if is_own {
            story.right();
        } else {
            story.wrong("was passed");
        }
    }
}

#[test]
fn those_who_may_be_passed() {
    // Detached.
    let mut story = Story::new();
    story.joins(1000, 1);
    story.joins(1100, 2);
    story.ticket(1200, 1, |row| row.is_detached = true);
    story.claim(3000, 2, 11);
    story.right();
    // It came back in time.
    story.joins(3500, 1);
    story.joins(3600, 3);
    story.claim(4000, 3, 12);
    story.wrong("ticket 1 ");
    // Its time is up.
    let mut story = Story::new();
    let time_up = story.at(2000);
    story.ticket(1000, 1, |row| row.waits_until = time_up);
    story.joins(1100, 2);
    story.claim(3000, 2, 11);
    story.right();
    // Its node is dead, or was declared dead.
    let mut story = Story::new();
    story.ticket(1000, 1, |row| row.node_id = DEAD);
    story.joins(1100, 2);
    story.claim(3000, 2, 11);
    story.right();
    let mut story = Story::new();
    story.joins(1000, 1);
    story.joins(1100, 2);
    story.look(2900, NODE, false);
    story.claim(3000, 2, 11);
    story.right();
}

/// For some time after an outage, a node that lived before it lives.
#[test]
fn waiters_of_before_an_outage() {
    let mut story = Story::new();
    story.look(900, DEAD, true);
    story.ticket(1000, 1, |row| row.node_id = DEAD);
    story.joins(1100, 2);
    story.claim(6000, 2, 11);
    story.right();
    story.register.outage = Some((story.at(1500), story.at(5500)));
    story.wrong("was passed");
}

#[test]
fn too_many_permits_unexpired() {
    let permits = |slot, from| {
        let mut story = Story::new();
        story.member(1000, 1, 11, (1000, 5000), 0, (2, Some(0)));
        story.member(1100, 2, 12, (1100, 5000), 0, (2, Some(1)));
        story.member(from, 3, 13, (from, 9000), 0, (2, Some(slot)));
        story
    };
    permits(1, 5100).right();
    permits(2, 4000).wrong("3 unexpired permits of 2");
    permits(1, 4000).wrong("in one slot");
    let mut released = Story::new();
    released.member(1000, 1, 11, (1000, 5000), 0, (2, Some(0)));
    released.member(2000, 1, 11, (1000, 2000), 1, (2, Some(0)));
    released.member(2100, 2, 12, (2100, 5000), 0, (2, Some(0)));
    released.right();
    let mut beside = Story::new();
    beside.member(1000, 1, 11, (1000, 5000), 0, (0, Some(0)));
    beside.lease(2000, 2, 12, (2000, 6000), 0);
    beside.wrong("unexpired at once");
    // The row of a lease that was released and handed over at once does not say so.
    let mut after = Story::new();
    after.lease(1000, 1, 11, (1000, 9000), 0);
    after.member(2000, 2, 12, (2000, 8000), 0, (0, Some(0)));
    after.member(2001, 3, 13, (2001, 8000), 0, (0, Some(1)));
    after.wrong("unexpired at once");
    after.lease(2002, 0, 14, (2001, 20_000), 4);
    after.right();
}

#[test]
fn one_who_left_and_was_granted() {
    let left = |outcome, ended| {
        let mut story = Story::new();
        story.joins(1000, 1);
        story.claim(3000, 1, 11);
        story.deletes(3100, 1, Some(11));
        story.lease(3100, 1, 11, (3000, 63_000), 0);
        story.call(1, true, (900, ended), outcome);
        story
    };
    left(held(11), 3200).right();
    left(Refused, 2000).wrong("granted to one who had left");
    left(Refused, 3200).wrong("and told [Refused]");
    left(Unheard, 2000).wrong("granted to one who had left");
    // The service needs a moment to notice; and who chose the id can ask again.
    left(Unheard, 2800).right();
    left(Unknown, 3200).right();
}

/// A claim that nobody confirmed is as if it had not been granted.
#[test]
fn a_claim_that_was_taken_back() {
    let mut story = Story::new();
    story.joins(1000, 1);
    story.claim(3000, 1, 11);
    story.ticket(3100, 1, |row| row.is_detached = true);
    story.lease(3100, 1, 11, (3000, 3100), 1);
    story.call(1, true, (900, 3050), Refused);
    story.right();
}

#[test]
fn a_drawn_id_that_nobody_was_told_of() {
    let hung_up = |end: Option<i64>| {
        let mut story = Story::new();
        story.joins(1000, 1);
        story.claim(3000, 1, 11);
        story.deletes(3010, 1, Some(11));
        story.lease(3010, 1, 11, (3000, 63_000), 0);
        if let Some(end) = end {
            story.lease(end, 1, 11, (3000, end), 1);
        }
        story.call(1, false, (900, 3005), Unheard);
        story
    };
    hung_up(Some(3200)).right();
    hung_up(Some(8000)).wrong("nobody was told of it");
    hung_up(None).wrong("nobody was told of it");
    // A claim that lapses is as if it had not been granted, if that is soon.
    for (end, is_soon) in [(3900, true), (6000, false)] {
        let mut story = Story::new();
        story.joins(1000, 1);
        story.claim(3000, 1, 11);
        story.lease(3010, 1, 11, (3000, end), 0);
        story.ticket(end, 1, |row| row.is_detached = true);
        story.call(1, false, (900, 3005), Unheard);
        if is_soon {
            story.right();
        } else {
            story.wrong("nobody was told of it");
        }
    }
}

#[test]
fn a_place_that_was_lost() {
    let detached = |at, ended, outcome| {
        let mut story = Story::new();
        story.joins(1000, 1);
        story.ticket(at, 1, |row| row.is_detached = true);
        story.call(1, true, (900, ended), outcome);
        story
    };
    detached(3000, 9500, Refused).wrong("lost its place");
    detached(3000, 2990, Unheard).right();
    let mut dead = detached(3000, 9500, Unknown);
    dead.register
        .versions
        .retain(|version| !matches!(version.row, RowVersion::Node(_)));
    dead.right();
}

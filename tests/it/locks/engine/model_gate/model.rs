//! The state of the locks, and what each operation makes of it.

use std::collections::BTreeMap;

use lockable::locks::Mode;

use super::{Op, Seen, Wait};

/// An account and a lease id of a client's; plain leases have none.
type Owner = (i64, Option<u128>);

#[derive(Clone, Debug, PartialEq)]
struct Lease {
    owner: Owner,
    mode: Mode,
    slot: Option<i32>,
    /// Its place among the grants of the lock.
    grant: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Released,
    /// Not by a release: it cannot be released any more.
    Otherwise,
}

/// A place in the line.
#[derive(Clone, Debug, PartialEq)]
struct Ticket {
    owner: Owner,
    mode: Mode,
    /// The request that waits with it; `None` while it is detached.
    waiter: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Lock {
    leases: Vec<Lease>,
    line: Vec<Ticket>,
    /// The fencing tokens of all grants, in their order; `None`: of a waiter that was not answered
    /// yet.
    tokens: Vec<Option<i64>>,
}

/// What becomes of a request that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Granted {
        lock: usize,
        grant: usize,
        slot: Option<i32>,
    },
    Ended,
    Replaced,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    locks: [Lock; 2],
    /// How leases with ids have ended.
    ends: BTreeMap<(Owner, usize), End>,
    /// Requests that waited, and of which it was not yet seen that they were answered.
    fates: BTreeMap<usize, Fate>,
}

fn go_together(one: Mode, other: Mode) -> bool {
    one == other && one != Mode::Exclusive
}

fn conflict(one: Mode, other: Mode) -> bool {
    let is_semaphore = |mode| matches!(mode, Mode::Semaphore { .. });
    one != other && (is_semaphore(one) || is_semaphore(other))
}

impl Lock {
    fn find(&self, owner: Owner) -> Option<usize> {
        self.leases.iter().position(|lease| lease.owner == owner)
    }

    /// True if a lease of this mode may begin beside those that live.
    fn fits(&self, mode: Mode) -> bool {
        let go_together = self
            .leases
            .iter()
            .all(|lease| go_together(lease.mode, mode));
        let has_room = match mode {
            Mode::Semaphore { limit } => i32::try_from(self.leases.len()).unwrap() < limit,
            Mode::Exclusive | Mode::Shared => true,
        };
        go_together && has_room
    }

    /// The mode that decides about conflicts.
    fn in_force(&self) -> Option<Mode> {
        let waits = |ticket: &&Ticket| ticket.waiter.is_some();
        match self.leases.first() {
            Some(lease) => Some(lease.mode),
            None => self.line.iter().find(waits).map(|ticket| ticket.mode),
        }
    }

    /// Begins a lease. Returns its place among the grants, and its slot.
    fn grant(&mut self, owner: Owner, mode: Mode, token: Option<i64>) -> (usize, Option<i32>) {
        let taken = |slot: &i32| self.leases.iter().all(|lease| lease.slot != Some(*slot));
        let slot = match mode {
            Mode::Semaphore { limit } => (0..limit).find(taken),
            Mode::Exclusive | Mode::Shared => None,
        };
        let grant = self.tokens.len();
        self.tokens.push(token);
        self.leases.push(Lease {
            owner,
            mode,
            slot,
            grant,
        });
        (grant, slot)
    }
}

impl Model {
    /// Applies an operation that had this outcome. Returns false if it cannot have had it.
    /// `waiter` is the number of a request that waits from now on.
    pub(super) fn apply(&mut self, op: &Op, waiter: usize, seen: Seen) -> bool {
        let is_right = match *op {
            Op::Acquire { .. } => self.acquire(op, waiter, seen),
            Op::Heartbeat { account, lock, id } => {
                let lock = &self.locks[lock];
                match (lock.find((account, id)), seen) {
                    (Some(at), Seen::Renewed { token }) => {
                        lock.tokens[lock.leases[at].grant] == Some(token)
                    }
                    (None, seen) => seen == Seen::Lost,
                    _ => false,
                }
            }
            Op::Release { account, lock, id } => self.release(lock, (account, id)) == seen,
            Op::Break { lock } => {
                let leases = self.end_all(lock);
                seen == Seen::Broken { leases }
            }
            Op::Lapse { lock } => {
                self.end_all(lock);
                seen == Seen::Done
            }
            Op::HangUp { .. } => seen == Seen::Done,
        };
        for lock in 0..self.locks.len() {
            self.hand_over(lock);
        }
        is_right
    }

    fn acquire(&mut self, op: &Op, waiter: usize, seen: Seen) -> bool {
        let Op::Acquire {
            account,
            lock: at,
            id,
            mode,
            wait,
            ..
        } = *op
        else {
            return false;
        };
        let owner = (account, id);
        let lock = &mut self.locks[at];
        if let Some(own) = id.and_then(|_| lock.find(owner)) {
            let lease = &lock.leases[own];
            return if lease.mode == mode {
                let token = lock.tokens[lease.grant];
                matches!(seen, Seen::Granted { token: other, slot }
                    if token == Some(other) && slot == lease.slot)
            } else {
                // One that does not wait is refused before anybody looks whose the lease is.
                seen == Seen::Conflict || wait == Wait::No && seen == Seen::Held
            };
        }
        if id.is_some() && self.ends.contains_key(&(owner, at)) {
            return seen == Seen::Ended;
        }
        let place = lock
            .line
            .iter()
            .position(|ticket| id.is_some() && ticket.owner == owner);
        if place.is_some_and(|place| lock.line[place].mode != mode) {
            let is_refused_at_a_look = wait == Wait::No && !lock.leases.is_empty();
            return seen == Seen::Conflict || is_refused_at_a_look && seen == Seen::Held;
        }
        if lock.in_force().is_some_and(|other| conflict(mode, other)) {
            return seen == Seen::Conflict;
        }
        let first = lock.line.iter().position(|ticket| ticket.waiter.is_some());
        let is_first = first.is_none_or(|first| place.is_some_and(|place| first >= place));
        if is_first && lock.fits(mode) {
            if let Some(place) = place {
                lock.line.remove(place);
            }
            let Seen::Granted { token, slot } = seen else {
                return false;
            };
            return lock.grant(owner, mode, Some(token)).1 == slot;
        }
        if wait == Wait::No {
            return seen == Seen::Held;
        }
        let place = place.unwrap_or_else(|| {
            lock.line.push(Ticket {
                owner,
                mode,
                waiter: None,
            });
            lock.line.len() - 1
        });
        if let Some(before) = lock.line[place].waiter.replace(waiter) {
            self.fates.insert(before, Fate::Replaced);
        }
        if wait == Wait::Long {
            return seen == Seen::Waits;
        }
        self.leave(waiter);
        seen == Seen::Held
    }

    fn release(&mut self, at: usize, owner: Owner) -> Seen {
        let lock = &mut self.locks[at];
        if let Some(own) = lock.find(owner) {
            lock.leases.remove(own);
            if owner.1.is_some() {
                self.ends.insert((owner, at), End::Released);
            }
            return Seen::Released;
        }
        if owner.1.is_none() {
            return Seen::Lost;
        }
        // If it waits, it is not granted any more.
        if let Some(place) = lock.line.iter().position(|ticket| ticket.owner == owner) {
            let ticket = lock.line.remove(place);
            if let Some(waiter) = ticket.waiter {
                self.fates.insert(waiter, Fate::Ended);
            }
        }
        match self.ends.entry((owner, at)).or_insert(End::Otherwise) {
            End::Released => Seen::Released,
            End::Otherwise => Seen::Lost,
        }
    }

    fn end_all(&mut self, at: usize) -> usize {
        let leases = std::mem::take(&mut self.locks[at].leases);
        for lease in &leases {
            if lease.owner.1.is_some() {
                self.ends.insert((lease.owner, at), End::Otherwise);
            }
        }
        leases.len()
    }

    /// A request gives up its place: it is kept for one who can ask for it again.
    pub(super) fn leave(&mut self, waiter: usize) {
        for lock in &mut self.locks {
            lock.line
                .retain(|ticket| ticket.waiter != Some(waiter) || ticket.owner.1.is_some());
            for ticket in &mut lock.line {
                if ticket.waiter == Some(waiter) {
                    ticket.waiter = None;
                }
            }
        }
        for lock in 0..self.locks.len() {
            self.hand_over(lock);
        }
    }

    fn hand_over(&mut self, at: usize) {
        let lock = &mut self.locks[at];
        while let Some(first) = lock.line.iter().position(|ticket| ticket.waiter.is_some())
            && lock.fits(lock.line[first].mode)
        {
            let ticket = lock.line.remove(first);
            let (grant, slot) = lock.grant(ticket.owner, ticket.mode, None);
            if let Some(waiter) = ticket.waiter {
                let lock = at;
                self.fates
                    .insert(waiter, Fate::Granted { lock, grant, slot });
            }
        }
    }

    /// The requests that wait, in no order.
    pub(super) fn waiters(&self) -> Vec<(usize, Owner, usize)> {
        let tickets = self.locks.iter().enumerate();
        tickets
            .flat_map(|(lock, state)| state.line.iter().map(move |ticket| (lock, ticket)))
            .filter_map(|(lock, ticket)| Some((ticket.waiter?, ticket.owner, lock)))
            .collect()
    }

    /// True if exactly these requests, that waited, were answered, and so.
    pub(super) fn settle(&mut self, answered: &BTreeMap<usize, Seen>) -> bool {
        let fates = std::mem::take(&mut self.fates);
        let is_right = fates.len() == answered.len()
            && fates
                .iter()
                .all(|(waiter, fate)| match (fate, answered.get(waiter)) {
                    (
                        Fate::Granted { lock, grant, slot },
                        Some(Seen::Granted { token, slot: other }),
                    ) => {
                        self.locks[*lock].tokens[*grant] = Some(*token);
                        slot == other
                    }
                    (Fate::Ended, Some(Seen::Ended)) => true,
                    (Fate::Replaced, Some(Seen::Replaced)) => true,
                    _ => false,
                });
        is_right
            && self.locks.iter().all(|lock| {
                let tokens: Vec<i64> = lock.tokens.iter().copied().flatten().collect();
                tokens.is_sorted_by(|one, next| one < next)
            })
    }

    /// True if some request was or will be answered that waited.
    pub(super) fn expects_answers(&self) -> bool {
        !self.fates.is_empty()
    }
}

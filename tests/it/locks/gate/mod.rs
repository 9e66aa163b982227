//! The races at the gate of a lock (ADR 11, ADR 12), each forced: sessions that hold row locks or
//! their commits back stand for nodes that are slow.
//!
//! Each race is a scenario that says whether the promise was kept. The real functions and
//! statements must keep it, and mutants, each without one of their clauses, must break it.
//! [`nodes`] and [`answers`] have the races of whole nodes.

mod answers;
mod claims;
mod conflicts;
mod kit;
mod limits;
mod line;
mod marks;
mod members;
mod mutant;
mod nodes;
mod older;
mod outages;
mod refused;
mod session;
mod two_orders;

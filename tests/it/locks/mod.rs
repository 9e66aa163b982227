//! The lock engine and its statements, against real PostgreSQL.

mod durability;
mod engine;
mod exclusion;
mod faults;
mod fencing;
mod kills;
mod mutants;
mod new_locks;
mod outage;
mod plans_of_statements;
mod refusals;
mod repeats;
mod workload;

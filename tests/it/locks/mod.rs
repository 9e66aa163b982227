//! The lock engine and its statements, against real PostgreSQL.

mod durability;
mod engine;
mod exclusion;
mod faults;
mod fencing;
mod gate;
mod insert_if_absent;
mod kills;
mod mutants;
mod outage;
mod plans_of_statements;
mod plans_of_the_gate;
mod refusals;
mod repeats;
mod stalled_histories;
mod stalls;
mod waiting;
mod workload;

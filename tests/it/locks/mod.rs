//! The lock engine and its statements, against real PostgreSQL.

mod mutants;
mod workload;

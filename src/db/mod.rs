//! PostgreSQL: how the service comes to it, and what every connection is told.

pub mod embedded;

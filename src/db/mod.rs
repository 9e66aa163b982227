//! PostgreSQL: how the service comes to it, and what every connection is told.

pub mod embedded;
pub mod migrate;
mod source;

pub use source::{Source, SourceError};

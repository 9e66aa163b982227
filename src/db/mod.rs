//! The database: pools whose connections are set up and checked, and the meaning of its failures.

pub mod backup;
pub mod changes;
pub mod children;
mod connection;
pub mod embedded;
mod errors;
pub mod identity;
pub mod migrate;
mod source;

pub use connection::{ACQUIRE_TIMEOUT, Purpose, connect, pool};
pub use errors::{is_contention, is_unavailable, violated_constraint};
pub use source::{Source, SourceError};

//! Locks: named, leased, fenced.

pub mod names;

pub use names::{LockName, NameError};

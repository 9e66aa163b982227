//! The HTTP API: adapters over the nouns, nothing else. [`auth`] finds out whose token it is, [`v1`] is the contract
//! of version 1, [`problem`] turns everything that goes wrong into a document.

pub mod credentials;
pub mod parameters;
pub mod problem;

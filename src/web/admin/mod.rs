//! The administrators' pages. To other accounts they do not exist.

pub(super) mod accounts;
pub(super) mod audit;
pub(super) mod locks;
pub(super) mod plans;

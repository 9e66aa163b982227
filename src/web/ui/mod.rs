//! The parts that several pages share.

pub(crate) mod field;
pub(crate) mod page;
pub(crate) mod snippet;
pub(crate) mod time;

//! The parts that pages are made of.

pub(super) mod field;
pub(super) mod form;
pub(super) mod limits;
pub(super) mod number;
pub(super) mod page;
pub(super) mod pagination;
pub(super) mod snippet;
pub(super) mod time;

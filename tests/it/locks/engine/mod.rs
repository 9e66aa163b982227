//! The lock engine without HTTP: what it answers, in what order, and what becomes of an answer that
//! is lost on either side.

mod failures;
mod limits;
mod model;
mod storage;

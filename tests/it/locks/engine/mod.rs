//! The lock engine without HTTP: outcomes, their order, and outcomes that are lost on either side.

mod failures;
mod gates_from_outside;
mod limits;
mod model;
mod model_gate;
mod storage;
mod together;
mod waiting;

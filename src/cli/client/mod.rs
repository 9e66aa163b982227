//! The client side: `lockable acquire`, `heartbeat`, `release` and `run`, over version 1 of the
//! API.

mod api;
mod child;
mod commands;
mod duration;
mod exit;
mod lease;
mod run;
mod service;

pub(super) use commands::{HoldArgs, RequestArgs, acquire, heartbeat, release};
pub(super) use run::{RunArgs, run};

//! The client side: `lockable acquire`, `heartbeat`, `release` and `run`, over version 1 of the
//! API.

mod api;
mod clock;
mod commands;
mod duration;
pub(super) mod exit;
mod lease;
mod processes;
mod protocol;
mod run;
mod service;
mod watchdog;

pub(super) use commands::{AcquireArgs, HoldArgs, RequestArgs, acquire, heartbeat, release};
pub(super) use run::{RunArgs, run};
pub(super) use watchdog::{WatchdogArgs, watchdog};

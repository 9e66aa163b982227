//! The client side: `lockable run`, `acquire`, `heartbeat` and `release` over version 1 of the API;
//! `status`, `list`, `watch` and `break` over version 2.

mod api;
mod backoff;
mod break_lock;
mod clock;
mod commands;
mod description;
mod display;
mod duration;
pub(super) mod exit;
mod failure;
mod http;
mod lease;
mod list;
mod printing;
mod processes;
mod protocol;
mod run;
mod service;
mod status;
mod v2;
mod watch;
mod watchdog;

pub(super) use break_lock::{BreakArgs, break_lock};
pub(super) use commands::{AcquireArgs, HoldArgs, RequestArgs, acquire, heartbeat, release};
pub(super) use list::{ListArgs, list};
pub(super) use run::{RunArgs, run};
pub(super) use status::{StatusArgs, status};
pub(super) use watch::{WatchArgs, watch};
pub(super) use watchdog::{WatchdogArgs, watchdog};

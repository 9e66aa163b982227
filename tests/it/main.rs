//! The integration tests, one binary, against real PostgreSQL. [`support`] shows how to write one.
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics is a test that fails"
)]

mod accounts;
mod activity;
mod architecture;
mod authorization;
mod events;
mod locks;
mod markdown;
mod ops;
mod promises;
mod python_client;
mod support;
mod support_self_test;
mod v1;
mod v2;
mod web;

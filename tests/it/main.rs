//! The integration tests, one binary, against real PostgreSQL. How to write one: see [`support`].
#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod architecture;
mod engine;
mod locks;
mod support;
mod v1;

//! The browser suite: what people do, in headless Chromium, against a node with a real listener and a real database.
//!
//! [`browser`] drives Chromium; [`accessibility`] runs axe-core on the page that is open. Every journey is made with script and without.
#![expect(clippy::unwrap_used, reason = "a test that panics is a test that fails")]

mod accessibility;
mod browser;
mod visitors;

#[expect(dead_code, unused_imports, reason = "the other suites use the rest of it")]
#[path = "../it/support/mod.rs"]
mod support;

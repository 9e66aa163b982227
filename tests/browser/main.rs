//! The browser suite: journeys in headless Chromium, against a node with a real listener and a real
//! database.
//!
//! [`browser`] drives Chromium; [`steps`] are what several journeys share; [`tour`] opens every
//! page there is, for axe-core ([`accessibility`]) and for pictures. Journeys are made with script
//! and without.
#![expect(
    clippy::unwrap_used,
    reason = "a test that panics is a test that fails"
)]

mod accessibility;
mod administration;
mod api_reference;
mod browser;
mod journeys;
mod keyboard;
mod steps;
mod tour;

#[expect(
    dead_code,
    unused_imports,
    reason = "the other suites use the rest of it"
)]
#[path = "../it/support/mod.rs"]
mod support;

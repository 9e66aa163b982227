//! The browser's side: pages, forms, the session. A thin adapter over the nouns.

mod assets;
pub mod error;
pub mod fields;
pub mod page;
mod security;
mod throttle;

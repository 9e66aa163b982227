//! The settings: each by flag and by environment variable, with units in their names.
//!
//! [`Settings`] is what `lockable serve` takes; [`DatabaseSettings`] is the part that every command
//! on the data needs.

mod database;
mod error;
mod log;
mod secret_url;
mod service;

pub use database::DatabaseSettings;
pub use error::SettingsError;
pub use log::{LogFormat, LogSettings};
pub use secret_url::SecretUrl;
pub use service::Settings;

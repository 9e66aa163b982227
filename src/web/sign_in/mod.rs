//! Signing up, in and out, and the pages behind the links in e-mails.

pub(super) mod credentials;
pub(super) mod email_confirmation;
pub(super) mod known_browser;
mod link;
pub(super) mod log_in;
pub(super) mod password_check;
pub(super) mod recovery;
pub(super) mod sign_up;

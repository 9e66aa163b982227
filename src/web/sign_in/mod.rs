//! Signing up, in and out, and the links in e-mails.

pub(crate) mod log_in;
pub(crate) mod recovery;

//! The pages of an account's owner.

mod browser_name;
pub(super) mod deletion;
pub(super) mod locks;
pub(super) mod namespaces;
pub(super) mod overview;
pub(super) mod security;
mod token_form;
pub(super) mod tokens;

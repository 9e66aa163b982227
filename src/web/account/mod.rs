//! The pages of an account's owner.

mod browser_name;
pub(crate) mod locks;
pub(crate) mod namespaces;
pub(crate) mod overview;
pub(crate) mod security;
pub(crate) mod tokens;

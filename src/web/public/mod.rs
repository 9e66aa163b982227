//! The pages for everybody: the front page and the documentation.

pub(crate) mod docs;
pub(crate) mod home;

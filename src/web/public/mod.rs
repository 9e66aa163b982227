//! The pages for everybody: the front page and the documentation.

pub(crate) mod api_reference;
pub(crate) mod docs;
pub(crate) mod home;

//! Events of locks in private namespaces: what is recorded, in which order it is seen, and what
//! happens to watchers.

mod http;
mod kit;
mod order;
mod purge;
mod recorded;
mod resumed;
mod watchers;

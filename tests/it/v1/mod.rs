//! Version 1 of the API.

mod connections;
mod contract;
mod credentials;
mod input;
mod limits;
mod node;
mod outage;
mod reference;
mod waiting;

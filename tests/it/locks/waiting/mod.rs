//! P7: requests that wait for a lock are granted it in the order of their tickets, across nodes,
//! whatever fails.

mod apart;
mod clients;
mod crowd;
mod crowds;
mod histories;
mod outage;

//! Lockable: a distributed lock service over HTTPS, on PostgreSQL.
//!
//! The map, from the outside in; each only knows those below it (`tests/it/architecture` holds
//! that):
//!
//! * [`cli`]: the commands; [`server`]: listeners, the router, start and stop;
//! * [`api`] and [`web`]: thin adapters for programs and for people; [`transport`]: the part
//!   of HTTP that they share; [`jobs`]: the regular work of a node;
//! * [`app`]: the state that handlers and jobs share;
//! * the nouns, with their types, rules and queries: [`accounts`], [`tokens`], [`plans`],
//!   [`namespaces`], [`locks`], [`events`], [`activity`], [`audit`]; and [`mail`];
//! * [`db`]: pools, migrations, notices, the embedded cluster; [`outages`]: the record of outages;
//!   [`config`]: settings; [`signals`]: signals that the process ignores;
//!   [`text`]: words for people.

// `println!` and `eprintln!` end the process if nobody reads: see `cli::output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod accounts;
pub mod activity;
pub mod api;
pub mod app;
pub mod audit;
pub mod cli;
pub mod config;
pub mod db;
pub mod events;
pub mod id;
pub mod jobs;
pub mod locks;
pub mod mail;
pub mod namespaces;
pub mod outages;
pub mod plans;
pub mod secret;
pub mod server;
pub mod signals;
pub mod text;
pub mod tokens;
pub mod transport;
pub mod web;

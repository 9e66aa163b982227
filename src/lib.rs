//! Lockable: a distributed lock service over HTTPS, on PostgreSQL.

pub mod api;
pub mod cli;
pub mod config;
pub mod db;
pub mod locks;
pub mod mail;
pub mod server;
pub mod transport;
pub mod web;

//! Version 2 of the API.

mod account;
mod breaking;
mod input;
mod kit;
mod locks;
mod manager;
mod many;
mod matrix;
mod modes;
mod namespaces;
mod openapi;
mod repeats;
mod token_refusals;
mod tokens;

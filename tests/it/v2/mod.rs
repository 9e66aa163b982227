//! Version 2 of the API.

mod input;
mod kit;
mod locks;
mod many;
mod matrix;
mod modes;
mod openapi;
mod repeats;

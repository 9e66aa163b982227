//! Version 1 of the API, to the letter.

mod contract;
mod node;

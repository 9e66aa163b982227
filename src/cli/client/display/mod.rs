//! What people read on a terminal: names that cannot deceive, lengths of time, instants, columns.
//!
//! Nothing here makes colours or other control codes, for a terminal or not.

mod table;
mod text;
mod time;

pub(super) use table::{Column, Table, fields};
pub(super) use text::{visible, visible_json};
pub(super) use time::{instant, remaining, span};

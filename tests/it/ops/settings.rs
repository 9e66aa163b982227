//! Settings as they are given: what cannot be read, what is empty, and what the help says.

use super::succeeded;
use crate::support::process::lockable;

#[test]
fn the_scope_without_use_yet_is_told_as_such() {
    let help = succeeded(&lockable().args(["admin", "token", "create", "--help"]).output().unwrap());
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("API v2, which is not built yet") && help.contains("[default: locks]"), "{help}");
    let manual = include_str!("../../../docs/operations.md");
    assert!(manual.contains("`--scope manage`") && manual.contains("not built yet"));
}

//! Checks the sources against the rules of the house (ARCHITECTURE.md): the direction of
//! dependencies, no circles, SQL in its places, no file too long.
//!
//! The reading is by text: comments and the contents of strings are blanked, then every path is
//! resolved to the file that it means. Test modules count as well.

mod circles;
mod files;
mod imports;
mod modules;
mod paths;
mod self_tests;
mod source;
mod sql;

use std::path::Path;

use circles::STILL_CIRCULAR;
use source::{Source, sources};

#[test]
fn the_rules_of_the_house_hold() {
    let wrong = violations(&sources(), STILL_CIRCULAR);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reading_finds_what_is_there() {
    let found = sources();
    assert!(
        found.len() > 10
            && found
                .iter()
                .any(|source| source.path == Path::new("server.rs"))
    );
    assert!(imports::uses_module(&found, "cli", "server"));
}

/// All violations, one line each.
fn violations(sources: &[Source], still_circular: &[&str]) -> Vec<String> {
    [
        imports::check(sources),
        circles::check(sources, still_circular),
        sql::check(sources),
    ]
    .concat()
}

//! `docs/promises.md` names the tests that show each promise. Each of them has to exist.

use std::path::Path;

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The names of tests in a text: in backticks, with `::` in them.
fn named(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|name| name.contains("::") && !name.contains(['<', ' ', '/']))
        .collect()
}

/// Whether there is a test of this name, and it is not ignored.
fn exists(name: &str) -> bool {
    let (module, function) = name.rsplit_once("::").unwrap();
    let path = module.replace("::", "/");
    let files = ["it", "browser"]
        .into_iter()
        .flat_map(|suite| [".rs", "/mod.rs"].map(|ending| format!("tests/{suite}/{path}{ending}")));
    let texts = files.filter_map(|file| read(&file));
    let mut attributes = texts.filter_map(|text| {
        let (before, _) = text.split_once(&format!("fn {function}("))?;
        // The text between this function and the end of the one before it.
        Some(before.rsplit("\n}").next()?.to_owned())
    });
    attributes.any(|lines| {
        (lines.contains("#[test]") || lines.contains("#[tokio::test"))
            && !lines.contains("#[ignore")
    })
}

#[test]
fn every_test_that_a_promise_names_exists() {
    let page = read("docs/promises.md").unwrap();
    let names = named(&page);
    assert!(names.len() > 40, "{names:?}");
    let missing: Vec<_> = names.into_iter().filter(|name| !exists(name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_promise_has_tests() {
    let page = read("docs/promises.md").unwrap();
    for number in 1..=10 {
        let (_, section) = page
            .split_once(&format!("\n## P{number} "))
            .unwrap_or_else(|| panic!("P{number} has no section"));
        let section = section.split("\n## ").next().unwrap();
        assert!(!named(section).is_empty(), "P{number} has no tests");
    }
}

#[test]
fn what_is_not_there_is_missed() {
    assert!(exists("promises::what_is_not_there_is_missed"));
    assert!(!exists("promises::exists"), "no test");
    assert!(!exists("promises::nowhere"));
    assert!(!exists("nowhere::what_is_not_there_is_missed"));
}

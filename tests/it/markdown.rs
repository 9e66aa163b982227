//! The documentation's links lead somewhere, the files that it names exist, and its lines are
//! wrapped.

use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files of the project, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut folders = vec![
        root().to_owned(),
        root().join("docs"),
        root().join("docs/adr"),
    ];
    folders.push(root().join(".github"));
    let mut pages = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push((path.clone(), std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    pages
}

/// The lines outside of code, each with its number.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence && !line.starts_with("    ")).then_some((index + 1, line))
    })
}

/// The targets of the links in a text: `[words](target)`, also over the end of a line.
fn links(text: &str) -> Vec<String> {
    let prose: Vec<_> = prose(text).map(|(_, line)| line).collect();
    let prose = prose.join("\n");
    let targets = prose.split("](").skip(1);
    targets
        .filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()))
        .collect()
}

/// The anchor that a heading gets: lower case, no punctuation, hyphens for spaces.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|character| character.is_alphanumeric() || " -_".contains(*character))
        .map(|character| if character == ' ' { '-' } else { character })
        .collect()
}

/// True if a link of a page leads to a file, and to a heading of it if it names one.
fn leads_somewhere(page: &Path, target: &str) -> bool {
    if target.contains("://") || page.starts_with(root().join(".github")) {
        return true;
    }
    let (file, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        page.to_owned()
    } else {
        page.parent().unwrap().join(file)
    };
    if heading.is_empty() {
        return path.exists();
    }
    std::fs::read_to_string(path).is_ok_and(|text| {
        prose(&text).any(|(_, line)| line.starts_with('#') && anchor(line) == heading)
    })
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    let mut dead = Vec::new();
    for (page, text) in pages() {
        for target in links(&text) {
            count += 1;
            if !leads_somewhere(&page, &target) {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(count > 40, "{count} links");
    assert!(dead.is_empty(), "{dead:#?}");
}

/// The paths of the project's files that a text has in backticks. A placeholder (`<`, `NNNN`) is
/// none.
fn named_files(text: &str) -> Vec<&str> {
    let folders = [
        "src/",
        "tests/",
        "migrations/",
        "templates/",
        "benches/",
        "script/",
    ];
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|name| folders.iter().any(|folder| name.starts_with(folder)))
        .filter(|name| !name.contains(['<', ' ', '*', '\n']) && !name.contains("NNNN"))
        .collect()
}

#[test]
fn every_file_that_is_named_exists() {
    let mut count = 0;
    let mut missing = Vec::new();
    for (page, text) in pages() {
        if page.ends_with("CHANGELOG.md") {
            continue;
        }
        for name in named_files(&text.replace("```", "")) {
            count += 1;
            if !root().join(name).exists() {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(count > 40, "{count} files");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn prose_is_wrapped_at_100_columns() {
    let mut long = Vec::new();
    for (page, text) in pages() {
        for (number, line) in prose(&text) {
            // The name of a test cannot be wrapped, nor a row of a table.
            let can_be_wrapped = line.trim_start_matches("- ").contains(' ');
            if line.chars().count() > 100 && can_be_wrapped && !line.starts_with('|') {
                long.push(format!("{}:{number}", page.display()));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn a_dead_link_is_seen() {
    let page = root().join("docs/promises.md");
    assert!(leads_somewhere(&page, "adr/README.md"));
    assert!(leads_somewhere(&page, "operations.md#backup-and-restore"));
    assert!(leads_somewhere(&page, "#p1-exclusion"));
    assert!(!leads_somewhere(&page, "adr/0000-nothing.md"));
    assert!(!leads_somewhere(&page, "operations.md#nothing"));
    assert_eq!(
        named_files("`src/a.rs` and `x`, `tests/<b>.rs`"),
        ["src/a.rs"]
    );
    assert_eq!(links("[a\nb](c.md) and\n\n    [d](e)\n"), ["c.md"]);
}

//! The files of the repository: none is too long or too wide, none looks like a secret.

use std::path::{Path, PathBuf};

use super::source::{files, root};

const MOST_LINES: usize = 500;

/// Files that are still too long. No other may become so, and one that is not goes off the list.
const STILL_TOO_LONG: &[&str] = &[];

/// The files under `src/` and `tests/` with their numbers of lines; without snapshots and vendored
/// files.
fn lengths() -> Vec<(PathBuf, usize)> {
    let all = ["src", "tests"].map(|folder| files(&root().join(folder)));
    all.into_iter()
        .flatten()
        .map(|path| path.strip_prefix(root()).unwrap().to_owned())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension != "snap")
                && !path.components().any(|part| part.as_os_str() == "vendor")
        })
        .filter_map(|path| {
            let text = std::fs::read_to_string(root().join(&path)).ok()?;
            Some((path, text.lines().count()))
        })
        .collect()
}

fn too_long(files: &[(PathBuf, usize)], still_too_long: &[&str]) -> Vec<String> {
    let is_long = |lines: usize| lines > MOST_LINES;
    let new = files
        .iter()
        .filter(|(path, lines)| {
            is_long(*lines) && !still_too_long.iter().any(|known| path == Path::new(known))
        })
        .map(|(path, lines)| {
            format!(
                "{}: {lines} lines: split it by its reasons to change",
                path.display()
            )
        });
    let ended = still_too_long
        .iter()
        .filter(|known| {
            !files
                .iter()
                .any(|(path, lines)| path == Path::new(known) && is_long(*lines))
        })
        .map(|known| format!("{known} is not too long any more: take it off STILL_TOO_LONG"));
    new.chain(ended).collect()
}

#[test]
fn no_file_is_too_long() {
    let wrong = too_long(&lengths(), STILL_TOO_LONG);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_is_too_long_is_seen() {
    let found = lengths();
    for expected in ["src/lib.rs", "tests/it/main.rs"] {
        assert!(
            found
                .iter()
                .any(|(path, lines)| path == Path::new(expected) && *lines > 10)
        );
    }
    let file = |lines| [(PathBuf::from("src/a.rs"), lines)];
    assert_eq!(too_long(&file(500), &[]), Vec::<String>::new());
    assert_eq!(
        too_long(&file(501), &[]),
        ["src/a.rs: 501 lines: split it by its reasons to change"]
    );
    assert_eq!(too_long(&file(501), &["src/a.rs"]), Vec::<String>::new());
    assert_eq!(
        too_long(&file(500), &["src/a.rs"]),
        ["src/a.rs is not too long any more: take it off STILL_TOO_LONG"]
    );
    assert_eq!(
        too_long(&[], &["src/a.rs"]),
        ["src/a.rs is not too long any more: take it off STILL_TOO_LONG"]
    );
}

/// The width of code in characters. rustfmt leaves wider comments and strings alone; the width of
/// Markdown is held by `markdown`.
const MOST_COLUMNS: usize = 100;

/// Folders that still have wider lines. No other may get one, and one without goes off the list.
const STILL_TOO_WIDE: &[&str] = &[];

/// The lines of code under `src/`, `tests/` and `benches/` that are too wide, by file.
fn wide_lines() -> Vec<(PathBuf, usize)> {
    let all = ["src", "tests", "benches"].map(|folder| files(&root().join(folder)));
    let code = all.into_iter().flatten().filter(|path| {
        path.extension()
            .is_some_and(|extension| ["rs", "sql", "py"].iter().any(|known| extension == *known))
    });
    code.flat_map(|path| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let path = path.strip_prefix(root()).unwrap().to_owned();
        let wide = |(number, line): (usize, &str)| {
            (line.chars().count() > MOST_COLUMNS).then(|| (path.clone(), number + 1))
        };
        text.lines()
            .enumerate()
            .filter_map(wide)
            .collect::<Vec<_>>()
    })
    .collect()
}

fn too_wide(lines: &[(PathBuf, usize)], still_too_wide: &[&str]) -> Vec<String> {
    let new = lines
        .iter()
        .filter(|(path, _)| !still_too_wide.iter().any(|known| path.starts_with(known)))
        .map(|(path, number)| {
            format!(
                "{}:{number}: more than {MOST_COLUMNS} columns",
                path.display()
            )
        });
    let ended = still_too_wide
        .iter()
        .filter(|known| !lines.iter().any(|(path, _)| path.starts_with(known)))
        .map(|known| format!("{known} has no wide line any more: take it off STILL_TOO_WIDE"));
    new.chain(ended).collect()
}

#[test]
fn no_line_is_too_wide() {
    let wrong = too_wide(&wide_lines(), STILL_TOO_WIDE);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_line_that_is_too_wide_is_seen() {
    let lines = [(PathBuf::from("src/a/b.rs"), 3)];
    assert_eq!(
        too_wide(&lines, &[]),
        ["src/a/b.rs:3: more than 100 columns"]
    );
    assert_eq!(too_wide(&lines, &["src/a"]), Vec::<String>::new());
    assert_eq!(
        too_wide(&[], &["src/a"]),
        ["src/a has no wide line any more: take it off STILL_TOO_WIDE"]
    );
}

#[test]
fn no_file_looks_like_a_secret() {
    let found: Vec<_> = files(root())
        .into_iter()
        .filter(|path| {
            ["pem", "key", "p12", "eml"]
                .iter()
                .any(|end| path.extension().is_some_and(|extension| extension == *end))
        })
        .collect();
    assert!(
        found.is_empty(),
        "keys and mail do not belong into the repository: {found:?}"
    );
}

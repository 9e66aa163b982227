//! The files of the repository: none is too long, none looks like a secret.

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

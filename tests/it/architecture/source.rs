//! The sources, and how they are read: as text, with comments and the contents of strings blanked.

use std::path::{Path, PathBuf};

/// A file under `src/`.
pub(super) struct Source {
    /// Its path, relative to `src/`.
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// True for Rust, false for SQL.
    pub(super) fn is_rust(&self) -> bool {
        self.path
            .extension()
            .is_some_and(|extension| extension == "rs")
    }

    /// The top-level module that the file belongs to.
    pub(super) fn module(&self) -> String {
        let first = self
            .path
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }
}

/// The Rust and SQL files under `src/`.
pub(super) fn sources() -> Vec<Source> {
    let root = root().join("src");
    files(&root)
        .into_iter()
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "rs" || extension == "sql")
        })
        .map(|path| Source {
            text: std::fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(&root).unwrap().to_owned(),
        })
        .collect()
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files in a folder and its folders, without those that are built, fetched or git's own.
pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if !path.is_dir() {
            found.push(path);
        } else if !["target", ".git", "node_modules"]
            .iter()
            .any(|name| path.ends_with(name))
        {
            found.extend(files(&path));
        }
    }
    found
}

/// The identifier that a text begins with; empty if it begins with none.
pub(super) fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

/// The same text, of the same length, with comments blanked, and with `strings` the contents of
/// strings too.
pub(super) fn blank(text: &str, strings: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let erase = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let end = if rest.starts_with(b"//") {
            let end = at
                + rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .unwrap_or(rest.len());
            erase(&mut out, at, end);
            end
        } else if rest.starts_with(b"/*") {
            let end = at + find(rest, b"*/").map_or(rest.len(), |length| length + 2);
            erase(&mut out, at, end);
            end
        } else if rest[0] == b'r'
            && (rest.starts_with(b"r\"") || rest.starts_with(b"r#"))
            && !after_word(bytes, at)
        {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) == Some(&b'"') {
                let close = [b"\"".to_vec(), vec![b'#'; hashes]].concat();
                let start = 2 + hashes;
                let end = at
                    + find(&rest[start..], &close)
                        .map_or(rest.len(), |length| start + length + close.len());
                if strings {
                    erase(&mut out, at + start, end.saturating_sub(close.len()));
                }
                end
            } else {
                at + 1
            }
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            let end = (end + 1).min(bytes.len());
            if strings {
                erase(&mut out, at + 1, end - 1);
            }
            end
        } else if rest[0] == b'\'' && (rest.get(2) == Some(&b'\'') || rest.starts_with(b"'\\")) {
            // A character, not a lifetime.
            let from = if rest.get(1) == Some(&b'\\') { 3 } else { 2 };
            at + rest
                .iter()
                .skip(from)
                .position(|byte| *byte == b'\'')
                .map_or(1, |length| from + length + 1)
        } else {
            at + 1
        };
        at = end.max(at + 1);
    }
    String::from_utf8(out).unwrap_or_default()
}

fn after_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

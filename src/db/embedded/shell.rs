//! Words for the commands that error messages suggest.

use std::path::Path;

/// The path as one word of a shell, in quotes if it needs them.
pub(super) fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@%,:".contains(c);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_are_quoted() {
        assert_eq!(word(Path::new("/var/lib/lockable")), "/var/lib/lockable");
        assert_eq!(word(Path::new("/it's $HOME")), r"'/it'\''s $HOME'");
    }
}

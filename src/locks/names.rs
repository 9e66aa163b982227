//! The names of locks: 1 to 255 bytes of UTF-8 without control characters, not `.` or `..`. Names
//! are compared byte for byte; nothing is folded or normalised.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

/// The length of the longest name, bytes of UTF-8.
pub const MAX_BYTES: usize = 255;

/// A lock's name, which follows the rules.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockName(Arc<str>);

/// The rule that a name breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("the lock's name is empty: give it 1 to {MAX_BYTES} bytes")]
    Empty,
    /// It is longer than an index takes, and a person reads.
    #[error(
        "the lock's name has {bytes} bytes: {MAX_BYTES} are allowed, counted in UTF-8 after \
         percent-decoding"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// `.` and `..` mean folders to clients and proxies on the way.
    #[error("a lock cannot be called `.` or `..`: choose another name")]
    Dots,
    /// It contains NUL, a line feed or the like.
    #[error(
        "the lock's name contains a control character (such as NUL or a line feed): leave it out"
    )]
    Control,
    /// It contains a `%` without two hexadecimal digits behind it.
    #[error(
        "the lock's name contains a % that is not followed by two hexadecimal digits: \
         write a literal % as %25"
    )]
    Escape,
    /// Its bytes are no text.
    #[error(
        "the lock's name is not UTF-8 after percent-decoding: encode it as UTF-8 \
         before percent-encoding"
    )]
    NotUtf8,
    /// It is more than one segment of a path.
    #[error("the lock's name contains a bare slash: write it as %2F")]
    Slash,
}

impl LockName {
    /// Makes a name from text that is not encoded: a command's argument, a row, a JSON string.
    ///
    /// # Errors
    /// If it breaks a rule.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// Its text, shared.
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// Makes a name from one segment of a URL's path as it was sent, still percent-encoded. A `+`
    /// is a plus, a `;` a semicolon.
    ///
    /// # Errors
    /// If the segment is badly encoded, or the decoded name breaks a rule.
    pub fn parse_segment(raw: &str) -> Result<Self, NameError> {
        if raw.contains('/') {
            return Err(NameError::Slash);
        }
        if has_broken_escape(raw.as_bytes()) {
            return Err(NameError::Escape);
        }
        let name: Cow<'_, str> = percent_decode_str(raw)
            .decode_utf8()
            .map_err(|_| NameError::NotUtf8)?;
        check(&name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(name: &str) -> Result<(), NameError> {
    match name {
        "" => Err(NameError::Empty),
        "." | ".." => Err(NameError::Dots),
        _ if name.len() > MAX_BYTES => Err(NameError::TooLong { bytes: name.len() }),
        // Exactly Unicode's category Cc.
        _ if name.chars().any(char::is_control) => Err(NameError::Control),
        _ => Ok(()),
    }
}

/// True if a `%` is not followed by two hexadecimal digits. The decoder would pass it on as it is,
/// and `%zz` and `%25zz` would be one lock.
fn has_broken_escape(raw: &[u8]) -> bool {
    let is_hex = |at: usize| raw.get(at).is_some_and(u8::is_ascii_hexdigit);
    raw.iter()
        .enumerate()
        .any(|(at, byte)| *byte == b'%' && !(is_hex(at + 1) && is_hex(at + 2)))
}

impl AsRef<str> for LockName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    fn parsed(raw: &str) -> Result<String, NameError> {
        LockName::parse_segment(raw).map(|name| name.as_str().to_owned())
    }

    #[test]
    fn one_segment_is_decoded_once() {
        for (raw, name) in [
            ("nightly-report", "nightly-report"),
            ("a%2Fb", "a/b"),
            ("a%2fb", "a/b"),
            ("a+b", "a+b"),
            ("a%20b", "a b"),
            ("a;b=c", "a;b=c"),
            ("%2525", "%25"),
            ("%C3%A4", "ä"),
            ("ä", "ä"),
            ("...", "..."),
            ("%F0%9F%94%92", "🔒"),
            ("%EF%BB%BF", "\u{feff}"),
            ("%20", " "),
        ] {
            assert_eq!(parsed(raw).as_deref(), Ok(name), "{raw}");
        }
    }

    #[test]
    fn a_name_that_breaks_a_rule_is_refused_by_that_rule() {
        for (raw, error) in [
            ("", NameError::Empty),
            (".", NameError::Dots),
            ("..", NameError::Dots),
            ("%2E", NameError::Dots),
            ("%2e%2E", NameError::Dots),
            ("a/b", NameError::Slash),
            ("/", NameError::Slash),
            ("a/", NameError::Slash),
            ("%", NameError::Escape),
            ("%4", NameError::Escape),
            ("%zz", NameError::Escape),
            ("a%%41", NameError::Escape),
            ("%u0041", NameError::Escape),
            ("%00", NameError::Control),
            ("a%00", NameError::Control),
            ("a%0A", NameError::Control),
            ("%7F", NameError::Control),
            ("%C2%85", NameError::Control),
            ("%FF", NameError::NotUtf8),
            ("%C3", NameError::NotUtf8),
            ("%C0%AF", NameError::NotUtf8),
            ("%ED%A0%80", NameError::NotUtf8),
        ] {
            assert_eq!(parsed(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn the_limit_is_in_bytes_after_decoding() {
        assert!(parsed(&"a".repeat(255)).is_ok());
        assert_eq!(
            parsed(&"a".repeat(256)),
            Err(NameError::TooLong { bytes: 256 })
        );
        assert!(parsed(&"%61".repeat(255)).is_ok());
        assert!(parsed(&format!("{}a", "%C3%A4".repeat(127))).is_ok());
        assert_eq!(
            parsed(&"%C3%A4".repeat(128)),
            Err(NameError::TooLong { bytes: 256 })
        );
    }

    proptest! {
        #[test]
        fn a_name_survives_encoding_and_parsing(text in "\\PC{0,300}") {
            let raw = utf8_percent_encode(&text, NON_ALPHANUMERIC).to_string();
            match (LockName::new(&text), LockName::parse_segment(&raw)) {
                (Ok(name), Ok(parsed)) => prop_assert!(name == parsed && parsed.as_str() == text),
                (name, parsed) => prop_assert_eq!(name, parsed),
            }
        }

        #[test]
        fn every_parsed_segment_follows_the_rules(raw in ".*") {
            if let Ok(name) = LockName::parse_segment(&raw) {
                prop_assert!((1..=MAX_BYTES).contains(&name.as_str().len()));
                prop_assert!(!name.as_str().chars().any(char::is_control));
            }
        }
    }
}

//! Texts of other people on a terminal: names of locks, labels of holders, reasons.

use std::borrow::Cow;

use icu_properties::props::{DefaultIgnorableCodePoint, EastAsianWidth, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// The text with every character escaped, as in `\u{202e}`, that steers the terminal, changes the
/// direction of the text or cannot be seen. Two texts that look the same are the same, as far as
/// such characters are concerned.
pub(in crate::cli::client) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// JSON with the same characters escaped as JSON does it, so that it means the same.
pub(in crate::cli::client) fn visible_json(json: &str) -> Cow<'_, str> {
    // A tab may stand between the tokens. Other characters below 128 are escaped already.
    let is_safe = |c: char| c < '\u{7f}' || !is_hidden(c);
    if json.chars().all(is_safe) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_safe(c) {
            shown.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Cow::Owned(shown)
}

fn is_hidden(c: char) -> bool {
    const BLANK_BRAILLE: char = '\u{2800}';
    if (' '..='~').contains(&c) {
        return false;
    }
    c.is_control()
        // Every space but the plain one: they look like it, or end a line.
        || c.is_whitespace()
        || c == BLANK_BRAILLE
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || matches!(
            CodePointMapData::<GeneralCategory>::new().get(c),
            GeneralCategory::Format | GeneralCategory::PrivateUse | GeneralCategory::Unassigned
        )
}

/// The columns that a visible text takes on a terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

/// The beginning of the text, so that it takes at most this many columns; `…` stands for the rest.
pub(super) fn cut(text: &str, columns_at_most: usize) -> Cow<'_, str> {
    if width(text) <= columns_at_most {
        return Cow::Borrowed(text);
    }
    let mut left = columns_at_most.saturating_sub(1);
    let mut shown = String::new();
    for c in text.chars() {
        let Some(rest) = left.checked_sub(columns(c)) else {
            break;
        };
        left = rest;
        shown.push(c);
    }
    shown.push('…');
    Cow::Owned(shown)
}

fn columns(c: char) -> usize {
    if c.is_ascii() {
        return 1;
    }
    match CodePointMapData::<GeneralCategory>::new().get(c) {
        GeneralCategory::NonspacingMark | GeneralCategory::EnclosingMark => return 0,
        _ => {}
    }
    let width = CodePointMapData::<EastAsianWidth>::new().get(c);
    if width == EastAsianWidth::Wide || width == EastAsianWidth::Fullwidth {
        2
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hidden_characters_are_escaped_and_others_stay() {
        for (text, shown) in [
            ("nightly report", "nightly report"),
            ("größe/日本", "größe/日本"),
            ("a\u{1b}[31mb", "a\\u{1b}[31mb"),
            ("a\nb\tc\r", "a\\u{a}b\\u{9}c\\u{d}"),
            ("a\u{9b}2Jb", "a\\u{9b}2Jb"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
            ("a\u{200b}b", "a\\u{200b}b"),
            ("\u{feff}a", "\\u{feff}a"),
            ("a\u{a0}b", "a\\u{a0}b"),
            ("a\u{2028}b", "a\\u{2028}b"),
            ("a\u{ad}b", "a\\u{ad}b"),
            ("a\u{e0041}b", "a\\u{e0041}b"),
            ("a\u{3164}b", "a\\u{3164}b"),
        ] {
            assert_eq!(visible(text), shown, "{text:?}");
        }
    }

    #[test]
    fn widths_are_those_of_a_terminal() {
        for (text, columns) in [("", 0), ("abc", 3), ("ä", 1), ("a\u{308}", 1), ("日本", 4)] {
            assert_eq!(width(text), columns, "{text:?}");
        }
        assert_eq!(cut("nightly", 7), "nightly");
        assert_eq!(cut("nightly", 6), "night…");
        assert_eq!(cut("日本日本", 6), "日本…");
        assert_eq!(cut("日本日本", 5), "日本…");
        assert_eq!(cut("a\u{308}bc", 2), "a\u{308}…");
    }

    #[test]
    fn json_with_hidden_characters_means_the_same() {
        let value = serde_json::json!({ "n\u{202e}": "a\u{e0041}\u{9b}\u{7f}b\n\u{1b}" });
        let json = format!("\t{value}");
        let shown = visible_json(&json);
        assert!(shown.chars().all(|c| c == '\t' || !is_hidden(c)), "{shown}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
            value
        );
        assert_eq!(visible_json("{\"ä\": 1}"), "{\"ä\": 1}");
    }

    proptest! {
        #[test]
        fn a_visible_text_steers_no_terminal_and_fits_where_it_is_cut(
            text in ".*",
            columns in 1_usize..20,
        ) {
            let shown = visible(&text);
            prop_assert!(!shown.chars().any(is_hidden));
            prop_assert!(width(&cut(&shown, columns)) <= columns);
        }
    }
}

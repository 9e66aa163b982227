//! E-mail addresses.

use std::fmt;
use std::str::FromStr;

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// An e-mail address, in the form in which its owner typed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Email {
    text: String,
    key: String,
}

impl Email {
    /// Its text, as its owner typed it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The form by which e-mail addresses are compared: the local part with ASCII letters in lower
    /// case, the domain as IDNA writes it in ASCII.
    ///
    /// No other letter changes: by Unicode's rules, the Kelvin sign becomes a `k`, and who has a
    /// mailbox of that name somewhere would have the account of another.
    pub fn key(&self) -> String {
        self.key.clone()
    }
}

impl Email {
    /// An e-mail address that an account has, though a stricter rule may refuse it today.
    pub(super) fn stored(text: &str) -> Self {
        text.parse().unwrap_or_else(|InvalidEmail| Self {
            text: text.to_owned(),
            key: text.to_ascii_lowercase(),
        })
    }
}

impl FromStr for Email {
    type Err = InvalidEmail;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        // The parser of the library that sends the mail: it can send to all that it accepts.
        let parsed: lettre::Address = text.parse().map_err(|_| InvalidEmail)?;
        // The standard allows an IP as the domain, such as [127.0.0.1]; a service should not send
        // mail there.
        let is_plain = text.len() <= 254
            && parsed.user().len() <= 64
            && !text.ends_with(']')
            && !text.chars().any(is_invisible);
        if !is_plain {
            return Err(InvalidEmail);
        }
        let local_part = parsed.user().to_ascii_lowercase();
        let domain = idna::domain_to_ascii(parsed.domain()).map_err(|_| InvalidEmail)?;
        Ok(Self {
            key: format!("{local_part}@{domain}"),
            text: text.to_owned(),
        })
    }
}

/// True for a character that nobody sees, so that two e-mail addresses look the same.
fn is_invisible(c: char) -> bool {
    const BLANK_BRAILLE: char = '\u{2800}';
    let category = CodePointMapData::<GeneralCategory>::new().get(c);
    c.is_control()
        || c.is_whitespace()
        || c == BLANK_BRAILLE
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || matches!(
            category,
            GeneralCategory::Format | GeneralCategory::PrivateUse | GeneralCategory::Unassigned
        )
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// The text is no e-mail address that mail can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no e-mail address: write it like name@example.com")]
pub struct InvalidEmail;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_as_typed_and_compared_in_lower_case() {
        let email: Email = " Ada.Lovelace@Example.COM ".parse().unwrap();
        assert_eq!(email.as_str(), "Ada.Lovelace@Example.COM");
        assert_eq!(email.key(), "ada.lovelace@example.com");
    }

    #[test]
    fn only_what_is_the_same_mailbox_has_the_same_key() {
        let key = |text: &str| text.parse::<Email>().unwrap().key();
        assert_eq!(key("\u{212a}ate@example.com"), "\u{212a}ate@example.com");
        assert_ne!(key("\u{212a}ate@example.com"), key("kate@example.com"));
        assert_ne!(key("\u{130}da@example.com"), key("ida@example.com"));
        assert_ne!(key("Ä@example.com"), key("ä@example.com"));
        assert_eq!(key("a@BÜCHER.example"), "a@xn--bcher-kva.example");
        for domain in [
            "bücher.example",
            "Bücher.Example",
            "XN--BCHER-KVA.example",
            "bu\u{308}cher.example",
        ] {
            assert_eq!(
                key(&format!("a@{domain}")),
                "a@xn--bcher-kva.example",
                "{domain}"
            );
        }
    }

    #[test]
    fn invisible_characters_are_refused() {
        for invisible in [
            '\u{ad}',
            '\u{34f}',
            '\u{61c}',
            '\u{115f}',
            '\u{180e}',
            '\u{200b}',
            '\u{200d}',
            '\u{202e}',
            '\u{2060}',
            '\u{2800}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{ffa0}',
            '\u{e0041}',
            '\u{e000}',
            '\u{a0}',
            '\u{3000}',
        ] {
            for text in [
                format!("a{invisible}da@example.com"),
                format!("ada@ex{invisible}ample.com"),
            ] {
                assert_eq!(text.parse::<Email>(), Err(InvalidEmail), "{text:?}");
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long = format!("{}@example.com", "a".repeat(300));
        for bad in [
            "",
            "ada",
            "ada@",
            "@example.com",
            "a b@example.com",
            "a\0@example.com",
            "a@b@c",
            "a@[127.0.0.1]",
            "a@xn--a-.example",
            "a@[IPv6:::1]",
            "a\r\nBcc: x@y.z",
            &long,
        ] {
            assert_eq!(bad.parse::<Email>(), Err(InvalidEmail), "{bad:?}");
        }
    }
}

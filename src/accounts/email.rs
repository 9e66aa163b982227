//! E-mail addresses.

use std::fmt;
use std::str::FromStr;

/// An e-mail address, in the form in which its owner typed it.
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// Its text, as its owner typed it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form by which e-mail addresses are compared: those of two accounts never differ in case
    /// only.
    pub fn key(&self) -> String {
        self.0.to_lowercase()
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
        let plain = text.len() <= 254
            && !text.ends_with(']')
            && !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if plain && parsed.user().len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidEmail)
        }
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
            "a@[IPv6:::1]",
            "a\r\nBcc: x@y.z",
            &long,
        ] {
            assert_eq!(bad.parse::<Email>(), Err(InvalidEmail), "{bad:?}");
        }
    }
}

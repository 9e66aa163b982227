//! URLs that may hold a password.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use url::Url;

use super::SettingsError;

/// The text of a URL that may hold a password. It is parsed where no error can print it, and
/// `Debug` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The text with its password.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The URL with its password.
    ///
    /// # Errors
    /// If the text is no URL. The error holds nothing of it.
    pub fn parse(&self) -> Result<Url, url::ParseError> {
        Url::parse(&self.0)
    }

    /// Checks that it is a URL of one of these schemes; the error names `setting` and `expected`.
    pub(super) fn validate(
        &self,
        setting: &str,
        schemes: [&str; 2],
        expected: &str,
    ) -> Result<(), SettingsError> {
        match self.parse() {
            Ok(url) if schemes.contains(&url.scheme()) => Ok(()),
            Ok(_) => Err(SettingsError::new(format!(
                "{setting} has to begin with {expected}"
            ))),
            Err(error) => Err(SettingsError::new(format!(
                "{setting} is not a URL ({error}): it has to begin with {expected}; a password \
                 goes into it percent-encoded, such as %2F for /"
            ))),
        }
    }
}

impl FromStr for SecretUrl {
    type Err = Infallible;

    /// Takes any text, because clap prints a text that it cannot parse, password and all;
    /// `Settings::validate` checks it later.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the scheme is safe to show: if the password has a /, a part of it is parsed as the
        // path.
        f.write_str(
            self.0
                .split_once(':')
                .filter(|_| self.parse().is_ok())
                .map_or("", |(scheme, _)| scheme),
        )?;
        f.write_str("://***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_shown() {
        let url: SecretUrl = "postgres://me:hunter2@host/db?password=hunter3"
            .parse()
            .unwrap();
        assert_eq!(format!("{url:?}"), "postgres://***");
        let url: SecretUrl = "hunter2".parse().unwrap();
        assert_eq!(format!("{url:?}"), "://***");
    }
}

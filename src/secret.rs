//! Secrets that cannot be printed by accident, and the digests that are stored in their place.

use std::fmt;

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A secret text: an API token, a password, a session id, the secret of a link in a mail. `Debug`
/// is redacted and there is no `Display`; only [`expose`](Self::expose) returns the text.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A new random secret: a version 4 UUID, 122 bits from the operating system.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The digest that is stored instead of a random secret, which needs neither salt nor a slow
    /// hash.
    pub fn sha256(&self) -> Sha256Digest {
        Sha256Digest(Sha256::digest(self.0.as_bytes()).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The SHA-256 of a [`Secret`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// Its bytes, for a `bytea` column.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256Digest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(format!("{:?}", secret.sha256()), "Sha256Digest(…)");
    }

    #[test]
    fn random_secrets_differ() {
        assert_ne!(Secret::random(), Secret::random());
    }
}

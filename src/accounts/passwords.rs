//! Passwords: argon2id, hashed off the async threads.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use super::email::Email;
use crate::secret::Secret;

/// The memory of one hash, KiB. With [`TIME_COST`] and [`LANES`] the first choice of OWASP's
/// password storage cheat sheet.
pub const MEMORY_KIB: u32 = 19_456;
/// The number of passes over that memory.
pub const TIME_COST: u32 = 2;
/// The number of its lanes.
pub const LANES: u32 = 1;

/// The fewest characters of a password (NIST SP 800-63B asks for 8; there are no other rules of
/// composition).
pub const MIN_CHARS: usize = 10;
/// The most bytes of a password: hashing a long one must not keep a server busy.
pub const MAX_BYTES: usize = 1024;

/// The most common passwords of at least [`MIN_CHARS`] characters, in lower case (`data/`).
static COMMON: LazyLock<HashSet<&'static str>> = LazyLock::new(|| {
    include_str!("../../data/common-passwords.txt")
        .lines()
        .collect()
});

/// A password's hash in PHC form.
#[derive(Clone)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Its text in the database.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// The reason for which a new password is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordRefused {
    /// Fewer than [`MIN_CHARS`] characters.
    #[error("choose a password of at least {MIN_CHARS} characters")]
    TooShort,
    /// More than [`MAX_BYTES`] bytes.
    #[error("choose a password of at most {MAX_BYTES} bytes")]
    TooLong,
    /// The password is the e-mail address, or its local part.
    #[error("choose a password that is not your e-mail address")]
    IsEmail,
    /// The password is one of the most common ones.
    #[error(
        "this is one of the most common passwords, which are tried first: choose another, such as \
         four words that have nothing to do with each other"
    )]
    IsCommon,
}

/// Hashes and verifies passwords, a few at a time, so that neither a rush of sign-ins nor clients
/// that go away take all memory or the async threads.
#[derive(Clone, Debug)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// The hash to verify against if there is no account, so that both cases take the same time.
    dummy: PasswordHash,
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new(2)
    }
}

impl Passwords {
    /// Computes at most `at_once` hashes at a time.
    pub fn new(at_once: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(at_once)),
            dummy: hash(&Secret::random()),
        }
    }

    /// Checks a new password against the rules and hashes it.
    ///
    /// # Errors
    /// If a rule is broken.
    pub async fn hash_new(
        &self,
        password: &Secret,
        email: &Email,
    ) -> Result<PasswordHash, PasswordRefused> {
        check(password, email)?;
        let password = password.clone();
        Ok(self.off_the_async_threads(move || hash(&password)).await)
    }

    /// True if this is the password. It takes as long if there is no hash, so that a client learns
    /// nothing from the time.
    pub async fn verify(&self, password: &Secret, stored: Option<&str>) -> bool {
        let known = stored.is_some();
        let stored = stored.unwrap_or(self.dummy.as_str()).to_owned();
        // No account has such a long password: hashing it would be a waste.
        let password = if password.expose().len() <= MAX_BYTES {
            password.clone()
        } else {
            Secret::new("")
        };
        let matches = self
            .off_the_async_threads(move || {
                phc::PasswordHash::new(&stored).is_ok_and(|stored| {
                    argon2()
                        .verify_password(password.expose().as_bytes(), &stored)
                        .is_ok()
                })
            })
            .await;
        matches && known
    }

    async fn off_the_async_threads<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        // The permit belongs to the work: a client that goes away drops this future, and the work
        // with its memory goes on.
        let work = move || {
            let result = work();
            drop(permit);
            result
        };
        tokio::task::spawn_blocking(work)
            .await
            .expect("hashing does not panic and is not aborted")
    }
}

fn check(password: &Secret, email: &Email) -> Result<(), PasswordRefused> {
    let text = password.expose();
    if text.len() > MAX_BYTES {
        return Err(PasswordRefused::TooLong);
    }
    if text.chars().count() < MIN_CHARS {
        return Err(PasswordRefused::TooShort);
    }
    let lower = text.trim().to_lowercase();
    let is_email = [email.as_str(), &email.key()].iter().any(|email| {
        let email = email.to_lowercase();
        lower == email || email.split('@').next() == Some(&lower)
    });
    if is_email {
        return Err(PasswordRefused::IsEmail);
    }
    if COMMON.contains(lower.as_str()) {
        return Err(PasswordRefused::IsCommon);
    }
    Ok(())
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, TIME_COST, LANES, None)
        .expect("the parameters are in the algorithm's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(password: &Secret) -> PasswordHash {
    let hash: phc::PasswordHash = argon2()
        .hash_password(password.expose().as_bytes())
        .expect("a password of bounded length can be hashed");
    PasswordHash(hash.to_string())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn email() -> Email {
        "ada.lovelace@example.com".parse().unwrap()
    }

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_only() {
        let passwords = Passwords::new(1);
        let hash = passwords
            .hash_new(&Secret::new("correct horse"), &email())
            .await
            .unwrap();
        assert!(
            hash.as_str().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            hash.as_str()
        );
        assert!(
            passwords
                .verify(&Secret::new("correct horse"), Some(hash.as_str()))
                .await
        );
        assert!(
            !passwords
                .verify(&Secret::new("correct horsf"), Some(hash.as_str()))
                .await
        );
        assert!(!passwords.verify(&Secret::new("correct horse"), None).await);
        assert!(
            !passwords
                .verify(&Secret::new("correct horse"), Some("not a hash"))
                .await
        );
    }

    #[tokio::test]
    async fn a_client_that_goes_away_leaves_no_room_for_another_hash_beside_its_own() {
        let passwords = Passwords::new(1);
        let (finish, finished) = std::sync::mpsc::channel();
        let mut hashing = Box::pin(passwords.off_the_async_threads(move || finished.recv()));
        assert!((&mut hashing).now_or_never().is_none());
        drop(hashing);
        assert_eq!(passwords.permits.available_permits(), 0);
        finish.send(()).unwrap();
        passwords.off_the_async_threads(|| ()).await;
    }

    #[test]
    fn the_rules() {
        assert_eq!(
            check(&Secret::new("short"), &email()),
            Err(PasswordRefused::TooShort)
        );
        assert_eq!(
            check(&Secret::new("x".repeat(1025)), &email()),
            Err(PasswordRefused::TooLong)
        );
        assert_eq!(
            check(&Secret::new("Ada.Lovelace"), &email()),
            Err(PasswordRefused::IsEmail)
        );
        assert_eq!(
            check(&Secret::new("ADA.lovelace@example.com"), &email()),
            Err(PasswordRefused::IsEmail)
        );
        for common in ["1q2w3e4r5t", "Password12", " BASKETBALL ", "1111111111"] {
            assert_eq!(
                check(&Secret::new(common), &email()),
                Err(PasswordRefused::IsCommon),
                "{common}"
            );
        }
        let umlauts: Email = "Ärger@bücher.example".parse().unwrap();
        for own in ["ärger@BÜCHER.example", "Ärger@xn--bcher-kva.example"] {
            assert_eq!(
                check(&Secret::new(own), &umlauts),
                Err(PasswordRefused::IsEmail),
                "{own}"
            );
        }
        for uncommon in ["пароль-ключ", "basketball basketball", "correct horse"] {
            assert_eq!(
                check(&Secret::new(uncommon), &email()),
                Ok(()),
                "{uncommon}"
            );
        }
    }

    #[test]
    fn the_list_of_common_passwords_is_in_the_form_that_it_is_searched_in() {
        assert!(COMMON.len() > 1000);
        for common in COMMON.iter() {
            assert_eq!(common.trim().to_lowercase(), *common);
            assert!(common.chars().count() >= MIN_CHARS, "{common}");
        }
    }
}

//! Browsers that an account has signed in with before.
//!
//! Anybody can use up the tries by e-mail address of an account, from a few client IPs, and would
//! keep its owner out. A browser that has signed in gets a cookie that proves it, and has tries of
//! its own (OWASP calls this a device cookie). It signs nobody in: the password is still needed.
//!
//! The proof is an HMAC under the hash of the account's password, which only the database knows. No
//! other secret is needed, and with another password the proof ends.

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use hmac::{Hmac, KeyInit, Mac};
use rand::RngExt as _;
use sha2::Sha256;
use url::Url;

use crate::id::AccountId;

/// The life of the cookie, seconds: a year.
const LIFE_S: u32 = 365 * 24 * 60 * 60;

const ID_BYTES: usize = 16;
const PROOF_BYTES: usize = 32;

/// The id of a browser, with a proof that is not verified yet.
pub(super) struct BrowserCookie {
    id: [u8; ID_BYTES],
    proof: [u8; PROOF_BYTES],
}

/// The id of a browser that the account has signed in with before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KnownBrowser([u8; ID_BYTES]);

impl BrowserCookie {
    /// The cookie of a request; `None` if it has none of the right form.
    pub(super) fn of(headers: &HeaderMap, public_url: &Url) -> Option<Self> {
        let name = cookie_name(public_url);
        let cookies = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let value = cookies
            .flat_map(|cookies| cookies.split(';'))
            .find_map(|cookie| cookie.trim().strip_prefix(name)?.strip_prefix('='))?;
        let (id_text, proof_text) = value.split_once('.')?;
        let (mut id, mut proof) = ([0; ID_BYTES], [0; PROOF_BYTES]);
        hex::decode_to_slice(id_text, &mut id).ok()?;
        hex::decode_to_slice(proof_text, &mut proof).ok()?;
        Some(Self { id, proof })
    }

    /// Verifies the proof for an account with this hash of its password.
    pub(super) fn verify(
        &self,
        account_id: AccountId,
        password_hash: &str,
    ) -> Option<KnownBrowser> {
        let proof = proof(self.id, account_id, password_hash);
        proof.verify_slice(&self.proof).ok()?;
        Some(KnownBrowser(self.id))
    }
}

/// Makes a browser known for the account: `response` sets the cookie. A browser that is known
/// already keeps its id, and with it the count of its tries.
pub(crate) fn remember(
    response: &mut Response,
    public_url: &Url,
    account_id: AccountId,
    password_hash: &str,
    known: Option<KnownBrowser>,
) {
    let id = known.map_or_else(|| rand::rng().random(), |known| known.0);
    let proof = proof(id, account_id, password_hash).finalize().into_bytes();
    let cookie = format!(
        "{}={}.{}; Path=/; Max-Age={LIFE_S}; HttpOnly; SameSite=Lax{}",
        cookie_name(public_url),
        hex::encode(id),
        hex::encode(proof),
        if is_over_tls(public_url) {
            "; Secure"
        } else {
            ""
        }
    );
    let cookie = HeaderValue::from_str(&cookie).expect("letters, digits and punctuation");
    response.headers_mut().append(header::SET_COOKIE, cookie);
}

fn proof(id: [u8; ID_BYTES], account_id: AccountId, password_hash: &str) -> Hmac<Sha256> {
    let mut proof = Hmac::<Sha256>::new_from_slice(password_hash.as_bytes())
        .expect("HMAC takes keys of any length");
    proof.update(b"known browser");
    proof.update(&account_id.0.to_be_bytes());
    proof.update(&id);
    proof
}

fn is_over_tls(public_url: &Url) -> bool {
    public_url.scheme() == "https"
}

/// With the prefix, a browser takes the cookie only over TLS, and only for this very host.
fn cookie_name(public_url: &Url) -> &'static str {
    if is_over_tls(public_url) {
        "__Host-lockable-browser"
    } else {
        "lockable-browser"
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA";

    fn remembered(url: &Url, account_id: AccountId, hash: &str) -> String {
        let mut response = ().into_response();
        remember(&mut response, url, account_id, hash, None);
        response.headers()[header::SET_COOKIE]
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn known(url: &Url, cookie: &str, account_id: AccountId, hash: &str) -> bool {
        let mut headers = HeaderMap::new();
        let cookies = format!("lockable=x; {}", cookie.split(';').next().unwrap());
        headers.insert(header::COOKIE, cookies.parse().unwrap());
        let cookie = BrowserCookie::of(&headers, url);
        cookie.is_some_and(|cookie| cookie.verify(account_id, hash).is_some())
    }

    #[test]
    fn a_browser_is_known_by_its_own_cookie_for_its_own_account_and_password() {
        for url in ["https://locks.example.com", "http://localhost:8080"] {
            let url = url.parse().unwrap();
            let cookie = remembered(&url, AccountId(7), HASH);
            assert!(known(&url, &cookie, AccountId(7), HASH), "{cookie}");
            assert!(!known(&url, &cookie, AccountId(8), HASH));
            assert!(!known(
                &url,
                &cookie,
                AccountId(7),
                "another password's hash"
            ));
            let at = cookie.find('=').unwrap() + 1;
            for end in [at, at + 10, at + 33, at + 40] {
                assert!(!known(&url, &cookie[..end], AccountId(7), HASH));
            }
            let other = if &cookie[at..=at] == "0" { "1" } else { "0" };
            let mut forged = cookie.clone();
            forged.replace_range(at..=at, other);
            assert!(!known(&url, &forged, AccountId(7), HASH));
            assert_ne!(remembered(&url, AccountId(7), HASH), cookie);
        }
    }

    #[test]
    fn over_tls_the_cookie_is_for_this_host_only() {
        let cookie = remembered(&"https://a.example".parse().unwrap(), AccountId(7), HASH);
        assert!(cookie.starts_with("__Host-lockable-browser="), "{cookie}");
        assert!(cookie.ends_with("; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax; Secure"));
        let cookie = remembered(&"http://a.example".parse().unwrap(), AccountId(7), HASH);
        assert!(cookie.starts_with("lockable-browser=") && !cookie.contains("Secure"));
    }
}

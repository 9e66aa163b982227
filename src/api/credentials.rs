//! The `Authorization` header: HTTP basic authentication (RFC 7617) with the API token as the user
//! name and an empty password. Only its form is checked here.

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::problem::{Code, Problem};

/// Some clients leave the padding out; refusing them gains nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The most bytes of decoded credentials. A token has 36.
const MAX_LEN: usize = 256;

/// A token as the client sent it, on the stack: the hot path allocates nothing for it. `Debug`
/// shows nothing.
pub struct SentToken {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl SentToken {
    /// The token. Never log it.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("checked when it was made")
    }
}

impl std::fmt::Debug for SentToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SentToken(…)")
    }
}

/// A mistake in an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// There is no such header.
    #[error(
        "Send an API token: HTTP basic authentication with the token as the user name and an empty \
         password (curl -u TOKEN: URL)."
    )]
    Missing,
    /// There are several such headers.
    #[error("The request has more than one Authorization header: send one.")]
    Several,
    /// Another scheme than `Basic`.
    #[error(
        "Version 1 takes `Authorization: Basic` only: send the token as the user name with an \
         empty password (curl -u TOKEN: URL)."
    )]
    Scheme,
    /// Another scheme than `Bearer` and `Basic`.
    #[error(
        "Send the API token as `Authorization: Bearer TOKEN`, or as the user name of HTTP basic \
         authentication with an empty password."
    )]
    OtherScheme,
    /// The part behind `Basic` is not base64.
    #[error(
        "What follows `Basic` in the Authorization header is not base64: encode the token and a \
         colon, without line breaks."
    )]
    Base64,
    /// The decoded credentials are longer than any token.
    #[error("The credentials in the Authorization header are too long for an API token.")]
    TooLong,
    /// The decoded credentials are not UTF-8.
    #[error("The credentials in the Authorization header are not UTF-8.")]
    NotUtf8,
    /// The decoded credentials have no colon.
    #[error(
        "The credentials in the Authorization header have no colon: encode `TOKEN:`, with the \
         colon."
    )]
    NoColon,
    /// The user name is empty.
    #[error("The user name in the Authorization header is empty: it has to be the API token.")]
    NoToken,
    /// The password is not empty.
    #[error(
        "The password has to be empty: the API token is the user name, and there is nothing else \
         to prove."
    )]
    Password,
}

impl From<CredentialsError> for Problem {
    fn from(error: CredentialsError) -> Self {
        let code = match error {
            CredentialsError::Missing => Code::CredentialsMissing,
            CredentialsError::Several
            | CredentialsError::Scheme
            | CredentialsError::OtherScheme
            | CredentialsError::Base64
            | CredentialsError::TooLong
            | CredentialsError::NotUtf8
            | CredentialsError::NoColon
            | CredentialsError::NoToken
            | CredentialsError::Password => Code::CredentialsMalformed,
        };
        Self::new(code, error.to_string())
    }
}

/// The token of a request, as `Basic` or as `Bearer` (RFC 6750).
///
/// # Errors
/// If there is no header, or it is malformed.
pub fn bearer_or_basic(headers: &HeaderMap) -> Result<SentToken, CredentialsError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(CredentialsError::Missing)?.as_bytes();
    if values.next().is_some() {
        return Err(CredentialsError::Several);
    }
    let Some((scheme, token)) = value.split_at_checked(6) else {
        return Err(CredentialsError::OtherScheme);
    };
    if scheme.eq_ignore_ascii_case(b"basic ") {
        return decode(token.trim_ascii());
    }
    if !scheme.eq_ignore_ascii_case(b"bearer") || token.first().is_some_and(|b| *b != b' ') {
        return Err(CredentialsError::OtherScheme);
    }
    let token = token.trim_ascii();
    if token.is_empty() {
        return Err(CredentialsError::NoToken);
    }
    let mut bytes = [0; MAX_LEN];
    let place = bytes
        .get_mut(..token.len())
        .ok_or(CredentialsError::TooLong)?;
    place.copy_from_slice(token);
    if std::str::from_utf8(token).is_err() {
        return Err(CredentialsError::NotUtf8);
    }
    Ok(SentToken {
        len: token.len(),
        bytes,
    })
}

/// The token of a request.
///
/// # Errors
/// If there is no header, or it is malformed.
pub fn basic(headers: &HeaderMap) -> Result<SentToken, CredentialsError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(CredentialsError::Missing)?.as_bytes();
    if values.next().is_some() {
        return Err(CredentialsError::Several);
    }
    let (scheme, credentials) = value.split_at_checked(5).ok_or(CredentialsError::Scheme)?;
    if !scheme.eq_ignore_ascii_case(b"basic") || credentials.first().is_some_and(|b| *b != b' ') {
        return Err(CredentialsError::Scheme);
    }
    decode(credentials.trim_ascii())
}

fn decode(credentials: &[u8]) -> Result<SentToken, CredentialsError> {
    // Four characters carry three bytes, and the decoder wants room for its own estimate of that.
    if credentials.len() > MAX_LEN / 3 * 4 {
        return Err(CredentialsError::TooLong);
    }
    let mut bytes = [0; MAX_LEN];
    let len = BASE64
        .decode_slice(credentials, &mut bytes)
        .map_err(|_| CredentialsError::Base64)?;
    let text = std::str::from_utf8(&bytes[..len]).map_err(|_| CredentialsError::NotUtf8)?;
    match text.split_once(':') {
        None => Err(CredentialsError::NoColon),
        Some((_, password)) if !password.is_empty() => Err(CredentialsError::Password),
        Some(("", _)) => Err(CredentialsError::NoToken),
        Some((token, _)) => Ok(SentToken {
            len: token.len(),
            bytes,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn sent(values: &[&[u8]]) -> Result<String, CredentialsError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(
                header::AUTHORIZATION,
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        basic(&headers).map(|token| token.expose().to_owned())
    }

    fn encoded(credentials: impl AsRef<[u8]>) -> Vec<u8> {
        format!(
            "Basic {}",
            base64::prelude::BASE64_STANDARD.encode(credentials)
        )
        .into_bytes()
    }

    #[test]
    fn the_user_name_is_the_token() {
        let header = encoded("a-token:");
        assert_eq!(sent(&[&header]).as_deref(), Ok("a-token"));
        assert_eq!(sent(&[b"bAsIc   YS10b2tlbjo=  "]).as_deref(), Ok("a-token"));
        assert_eq!(
            sent(&[b"Basic YS10b2tlbjo"]).as_deref(),
            Ok("a-token"),
            "without padding"
        );
        assert_eq!(sent(&[&encoded("t:")]).as_deref(), Ok("t"));
    }

    #[test]
    fn each_mistake_is_named() {
        use CredentialsError::*;
        let good = encoded("a-token:");
        assert_eq!(sent(&[]), Err(Missing));
        assert_eq!(sent(&[&good, &good]), Err(Several));
        for (value, error) in [
            (b"Bearer abc".to_vec(), Scheme),
            (b"Basically abc".to_vec(), Scheme),
            (b"Bas".to_vec(), Scheme),
            (b"".to_vec(), Scheme),
            (b"Basic".to_vec(), NoColon),
            (b"Basic ".to_vec(), NoColon),
            (b"Basic !!!".to_vec(), Base64),
            (b"Basic YS10 b2tlbjo=".to_vec(), Base64),
            (b"Basic YS10b2tlbjo=, Basic YS10b2tlbjo=".to_vec(), Base64),
            (b"Basic \xff\xfe".to_vec(), Base64),
            (encoded(b"\xff\xfe:"), NotUtf8),
            (encoded("a-token"), NoColon),
            (encoded(":"), NoToken),
            (encoded(":secret"), Password),
            (encoded("a-token:secret"), Password),
            (encoded("a-token::"), Password),
            (encoded("x".repeat(300) + ":"), TooLong),
            (vec![b'B'; 60_000], Scheme),
            ([b"Basic ".to_vec(), vec![b'A'; 60_000]].concat(), TooLong),
        ] {
            assert_eq!(
                sent(&[&value]),
                Err(error),
                "{}",
                String::from_utf8_lossy(&value)
            );
        }
    }

    #[test]
    fn the_longest_that_is_looked_at_fits() {
        let token = "x".repeat(MAX_LEN - 2);
        assert_eq!(
            sent(&[&encoded(format!("{token}:"))]).as_deref(),
            Ok(&*token)
        );
    }

    #[test]
    fn debug_shows_nothing() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Basic YS10b2tlbjo="),
        );
        assert_eq!(format!("{:?}", basic(&headers).unwrap()), "SentToken(…)");
    }
}

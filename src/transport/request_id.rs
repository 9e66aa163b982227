//! The id of one request: in the answer, in the log line, in every problem document.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Builder;

/// The header that carries the id, in requests and answers.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The most bytes of an incoming id that is kept.
const MAX_LEN: usize = 128;

/// A request's id: a UUIDv7, or the id that a proxy in front of the service has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The incoming id if it is sane (1 to 128 characters that are harmless in logs and headers),
    /// else a new id.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        match headers.get(&HEADER) {
            Some(value) if is_sane(value.as_bytes()) => Self(value.clone()),
            _ => Self::generate(),
        }
    }

    /// A new id. It begins with the time, so that log lines sort; its random part comes from the
    /// thread's generator, because an id is no secret and a system call costs more.
    pub fn generate() -> Self {
        let millis = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64);
        let uuid = Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid();
        let mut text = uuid::Uuid::encode_buffer();
        let text = uuid.hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).expect("a UUID is visible ASCII"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("checked or made as visible ASCII")
    }

    /// The id as a header's value.
    pub fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len())
        && id.iter().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'=' | b'+' | b'/')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(value: &[u8]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        RequestId::from_headers(&headers).as_str().as_bytes() == value
    }

    #[test]
    fn a_new_id_is_a_uuid_of_version_7() {
        let id = RequestId::generate();
        assert_eq!(
            uuid::Uuid::parse_str(id.as_str())
                .unwrap()
                .get_version_num(),
            7
        );
        assert_ne!(id, RequestId::generate());
    }

    #[test]
    fn a_sane_incoming_id_is_kept_and_another_replaced() {
        assert!(kept(b"Root=1-67891233-abcdef012345678912345678"));
        assert!(kept(&[b'a'; MAX_LEN]));
        assert!(!kept(&[b'a'; MAX_LEN + 1]));
        assert!(!kept(b""));
        assert!(!kept(b"a b"));
        assert!(!kept(b"\"quoted\""));
        assert!(!kept("\u{e9}".as_bytes()));
    }
}

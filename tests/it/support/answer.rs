//! An HTTP response, looked at closely.

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName, LOCATION};
use serde_json::Value;

/// A response, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// Its body as JSON. Panics if it is none.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header that may be missing.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The cookie of this name that the response sets, with its attributes. Panics if it sets none.
    #[track_caller]
    pub(crate) fn cookie(&self, name: &str) -> &str {
        let mut cookies = self.headers.get_all("set-cookie").iter();
        cookies
            .find_map(|cookie| {
                let cookie = cookie.to_str().unwrap();
                (cookie.split('=').next() == Some(name)).then_some(cookie)
            })
            .unwrap_or_else(|| panic!("{name} in {:?}", self.headers))
    }

    /// The value of a header. Panics if it is missing.
    #[track_caller]
    pub(crate) fn required(&self, name: &str) -> &str {
        self.header(name)
            .unwrap_or_else(|| panic!("{name} in {:?}", self.headers))
    }

    /// The value of a header that is a number.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.required(name).parse().unwrap()
    }

    /// Version 1's `true` or `false`. Panics unless it is a 200 with that body, byte for byte.
    #[track_caller]
    pub(crate) fn verdict(&self) -> bool {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        assert_eq!(self.required("content-type"), "application/json");
        match &*self.text {
            r#"{"response": true}"# => true,
            r#"{"response": false}"# => false,
            other => panic!("neither true nor false: {other}"),
        }
    }

    /// Status and code of a problem document. Checks what all of them have in common.
    #[track_caller]
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        assert_eq!(self.required("cache-control"), "no-store");
        let document = self.json();
        let text = |field: &str| {
            document[field]
                .as_str()
                .unwrap_or_else(|| panic!("{field} in {document}"))
                .to_owned()
        };
        assert_eq!(document["status"], self.status.as_u16());
        assert_eq!(text("request_id"), self.required("x-request-id"));
        assert!(
            text("detail").ends_with(['.', ')']) || text("detail").contains("https://"),
            "{document}"
        );
        assert!(!text("title").is_empty());
        assert!(
            text("type").ends_with(&format!("/docs#problem-{}", text("code"))),
            "{document}"
        );
        match self.status {
            StatusCode::UNAUTHORIZED => {
                let challenge = self.required("www-authenticate");
                assert!(
                    challenge.ends_with("Basic realm=\"lockable\""),
                    "{challenge}"
                );
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                self.required("retry-after").parse::<u32>().unwrap();
            }
            _ => {}
        }
        assert!(
            !self.headers.keys().any(is_of_a_lease),
            "{:?}",
            self.headers
        );
        (self.status.as_u16(), text("code"))
    }

    /// The URL of a redirection. Panics unless it is one.
    #[track_caller]
    pub(crate) fn location(&self) -> &str {
        assert!(self.status.is_redirection(), "{self:?}");
        self.required(LOCATION.as_str())
    }
}

/// True for the headers of a grant or renewal.
pub(crate) fn is_of_a_lease(name: &HeaderName) -> bool {
    name.as_str().starts_with("lockable-")
}

//! The queries of lists: parsed strictly, with cursors that only the service reads.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;

use super::super::problem::{Code, Problem};

/// The most entries of a page.
pub const MAX_LIMIT: i32 = 1000;
/// The entries of a page if the request does not say.
pub const DEFAULT_LIMIT: i32 = 100;

/// The parameters of a query.
#[derive(Debug)]
pub struct Query<'a>(Vec<(Cow<'a, str>, String)>);

impl<'a> Query<'a> {
    /// Parses a query string that has only these parameters, each once.
    ///
    /// # Errors
    /// [`Code::UnknownParameter`], [`Code::InvalidParameter`].
    pub fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(Cow<'a, str>, String)> = Vec::new();
        let pairs = query.unwrap_or_default().split('&');
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            if !known.contains(&&*name) {
                // Quoted, shortened and escaped: the client chose the text.
                let shown: String = name.chars().take(64).collect();
                let detail = format!(
                    "There is no parameter {shown:?}: this call takes {}.",
                    known.join(", ")
                );
                return Err(Problem::new(Code::UnknownParameter, detail));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(invalid(format!(
                    "{name} stands twice in the query: send it once."
                )));
            }
            // A plus is a space in a query, as browsers and HTTP libraries write it.
            let value = value.replace('+', " ");
            let value = decode(&value)?.into_owned();
            if value.contains('\0') {
                return Err(invalid(format!("{name} contains a NUL: leave it out.")));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The number of entries that the page may have.
    ///
    /// # Errors
    /// [`Code::InvalidParameter`].
    pub fn limit(&self) -> Result<i32, Problem> {
        let Some(text) = self.get("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = is_number.then(|| text.parse().ok()).flatten();
        number
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| {
                invalid(format!(
                    "limit has to be a whole number from 1 to {MAX_LIMIT}."
                ))
            })
    }

    /// The text that was encoded in `cursor`.
    ///
    /// # Errors
    /// [`Code::InvalidParameter`].
    pub fn cursor(&self) -> Result<Option<String>, Problem> {
        let Some(cursor) = self.get("cursor") else {
            return Ok(None);
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.filter(|text| !text.contains('\0'));
        text.map(Some).ok_or_else(|| {
            invalid("cursor has to be the next_cursor of an earlier answer, unchanged.".to_owned())
        })
    }
}

/// A cursor that [`Query::cursor`] reads.
pub fn encode_cursor(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn decode(part: &str) -> Result<Cow<'_, str>, Problem> {
    percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| invalid("The query string is not UTF-8 after percent-decoding.".to_owned()))
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidParameter, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_strictly() {
        let known = ["prefix", "cursor", "limit"];
        let cursor = encode_cursor("a/ü");
        let text = format!("prefix=a%2Fb+c&limit=7&cursor={cursor}");
        let query = Query::parse(Some(&text), &known).unwrap();
        assert_eq!(query.get("prefix"), Some("a/b c"));
        assert_eq!(query.limit(), Ok(7));
        assert_eq!(query.cursor(), Ok(Some("a/ü".to_owned())));
        let none = Query::parse(None, &known).unwrap();
        assert_eq!((none.limit(), none.cursor()), (Ok(100), Ok(None)));
        for (wrong, code) in [
            ("limit=1&limit=1", Code::InvalidParameter),
            ("page=1", Code::UnknownParameter),
            ("prefix=%FF", Code::InvalidParameter),
            ("prefix=%00", Code::InvalidParameter),
        ] {
            let refused = Query::parse(Some(wrong), &known).unwrap_err();
            assert_eq!(refused.code(), code, "{wrong}");
        }
        for limit in ["0", "1001", "-1", "1.0", "", "99999999999999999999"] {
            let text = format!("limit={limit}");
            let query = Query::parse(Some(&text), &known).unwrap();
            assert!(query.limit().is_err(), "{limit}");
        }
        for cursor in ["%", "a", "AA", "_w"] {
            let text = format!("cursor={cursor}");
            let refused = Query::parse(Some(&text), &known).and_then(|query| query.cursor());
            assert!(refused.is_err(), "{cursor}");
        }
    }
}

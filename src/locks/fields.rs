//! The rules for the fields of an acquire that a client chooses: hold limit, wait, mode, holder,
//! metadata.

use serde_json::{Map, Value};

use super::{MAX_PERMITS, MAX_WAIT_MS, Mode};

/// The longest holder, bytes of UTF-8.
pub const MAX_HOLDER_BYTES: usize = 256;
/// The largest metadata, bytes of JSON without spaces.
pub const MAX_METADATA_BYTES: usize = 4096;

/// A field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct FieldError {
    /// The field's name.
    pub field: &'static str,
    /// The rule, to be read behind the field's name.
    pub problem: String,
}

fn refuse<T>(field: &'static str, problem: String) -> Result<T, FieldError> {
    Err(FieldError { field, problem })
}

fn number(field: &'static str, value: i64, least: i32, most: i32) -> Result<i32, FieldError> {
    match i32::try_from(value) {
        Ok(value) if (least..=most).contains(&value) => Ok(value),
        _ => refuse(
            field,
            format!("has to be a whole number from {least} to {most}"),
        ),
    }
}

/// Checks a wait, milliseconds.
///
/// # Errors
/// [`FieldError`].
pub fn wait_ms(wait_ms: i64) -> Result<i32, FieldError> {
    number("wait_ms", wait_ms, 0, MAX_WAIT_MS)
}

/// Checks a hold limit, milliseconds.
///
/// # Errors
/// [`FieldError`].
pub fn max_hold_ms(max_hold_ms: i64) -> Result<i32, FieldError> {
    number("max_hold_ms", max_hold_ms, 1, i32::MAX)
}

/// The mode that a request names: by `mode`, or by the `limit` of a semaphore.
///
/// # Errors
/// [`FieldError`], also where both are given.
pub fn mode(mode: Option<&str>, limit: Option<i64>) -> Result<Mode, FieldError> {
    match (mode, limit) {
        (None, None) => Ok(Mode::Exclusive),
        (Some("exclusive"), None) => Ok(Mode::Exclusive),
        (Some("shared"), None) => Ok(Mode::Shared),
        (None, Some(limit)) => {
            number("limit", limit, 2, MAX_PERMITS).map(|limit| Mode::Semaphore { limit })
        }
        (Some("exclusive" | "shared"), Some(_)) => refuse(
            "limit",
            "makes a semaphore: leave mode out, or leave limit out".to_owned(),
        ),
        (Some("semaphore"), _) => refuse(
            "mode",
            "is not given for a semaphore: give its limit alone".to_owned(),
        ),
        (Some(_), _) => refuse("mode", "has to be \"exclusive\" or \"shared\"".to_owned()),
    }
}

/// Checks a holder: the client's label for people.
///
/// # Errors
/// [`FieldError`].
pub fn holder(holder: String) -> Result<String, FieldError> {
    if holder.is_empty() {
        return refuse("holder", "is empty: leave it out".to_owned());
    }
    if holder.len() > MAX_HOLDER_BYTES {
        return refuse(
            "holder",
            format!("is longer than {MAX_HOLDER_BYTES} bytes of UTF-8"),
        );
    }
    if holder.chars().any(char::is_control) {
        return refuse("holder", "contains a control character".to_owned());
    }
    Ok(holder)
}

/// Checks metadata: the client's JSON for programs.
///
/// # Errors
/// [`FieldError`].
pub fn metadata(metadata: Map<String, Value>) -> Result<Value, FieldError> {
    let metadata = Value::Object(metadata);
    if metadata.to_string().len() > MAX_METADATA_BYTES {
        return refuse(
            "metadata",
            format!("is larger than {MAX_METADATA_BYTES} bytes of JSON"),
        );
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_limits_go_together() {
        assert_eq!(mode(None, None), Ok(Mode::Exclusive));
        assert_eq!(mode(Some("exclusive"), None), Ok(Mode::Exclusive));
        assert_eq!(mode(Some("shared"), None), Ok(Mode::Shared));
        assert_eq!(mode(None, Some(2)), Ok(Mode::Semaphore { limit: 2 }));
        assert_eq!(mode(None, Some(1000)), Ok(Mode::Semaphore { limit: 1000 }));
        for (given, limit, field) in [
            (None, Some(1), "limit"),
            (None, Some(1001), "limit"),
            (None, Some(-1), "limit"),
            (None, Some(i64::MAX), "limit"),
            (Some("shared"), Some(2), "limit"),
            (Some("exclusive"), Some(1), "limit"),
            (Some("semaphore"), None, "mode"),
            (Some("semaphore"), Some(3), "mode"),
            (Some("Shared"), None, "mode"),
            (Some(""), None, "mode"),
        ] {
            assert_eq!(mode(given, limit).unwrap_err().field, field, "{given:?}");
        }
    }

    #[test]
    fn bounds() {
        assert_eq!(wait_ms(0), Ok(0));
        assert_eq!(wait_ms(60_000), Ok(60_000));
        assert!(wait_ms(-1).is_err() && wait_ms(60_001).is_err());
        assert_eq!(max_hold_ms(1), Ok(1));
        assert!(max_hold_ms(0).is_err() && max_hold_ms(1 << 31).is_err());
        assert!(holder("x".repeat(256)).is_ok());
        for wrong in ["", "a\nb", "\u{7f}", &"x".repeat(257), &"é".repeat(129)] {
            assert!(holder(wrong.to_owned()).is_err(), "{wrong:?}");
        }
        let of = |length| Map::from_iter([("k".to_owned(), Value::from("x".repeat(length)))]);
        assert!(metadata(of(4096 - 8)).is_ok());
        assert!(metadata(of(4096 - 7)).is_err());
    }
}

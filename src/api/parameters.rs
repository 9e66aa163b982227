//! Version 1's optional parameters: parsed strictly, so that a misspelt or misunderstood one is an
//! error and never silently a different request.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use axum::http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::calls::{Call, Operation};
use super::problem::{Code, Problem};
use crate::locks::MAX_WAIT_MS;

/// The header that takes a lease id as well, on acquire.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest lease of any plan, milliseconds.
const MAX_LEASE_MS: i32 = 86_400_000;

/// The parameters of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// The length of the lease, milliseconds. The plan's bounds are not checked here.
    pub lease_ms: Option<i64>,
    /// The longest wait for the lock, milliseconds.
    pub wait_ms: i32,
    /// The id of the lease: an acquire's new one, the existing one of other calls.
    pub lease_id: Option<Uuid>,
}

impl Parameters {
    /// Parses the query string and, on acquire, the `Idempotency-Key` header.
    ///
    /// # Errors
    /// If a parameter is unknown, does not go with this call, stands twice or has a value that it
    /// cannot have.
    pub fn parse(call: &Call, query: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut parameters = Self::default();
        let mut seen = [false; 3];
        for pair in query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let slot = match &*name {
                "lease_ms" => 0,
                "wait_ms" => 1,
                "lease_id" => 2,
                _ => return Err(unknown(call, &name)),
            };
            if !call.parameters.contains(&&*name) {
                return Err(misplaced(call, &name));
            }
            if std::mem::replace(&mut seen[slot], true) {
                return Err(invalid(format!(
                    "{name} stands twice in the query: send it once."
                )));
            }
            let value = decode(value)?;
            match slot {
                0 => {
                    let lease_ms = milliseconds("lease_ms", &value, 1..=MAX_LEASE_MS)?;
                    parameters.lease_ms = Some(lease_ms.into());
                }
                1 => parameters.wait_ms = wait_ms(&value)?,
                _ => parameters.lease_id = Some(lease_id(&value)?),
            }
        }
        if call.operation == Operation::Acquire {
            parameters.take_idempotency_key(headers)?;
        }
        Ok(parameters)
    }

    fn take_idempotency_key(&mut self, headers: &HeaderMap) -> Result<(), Problem> {
        let refuse = |detail| Err(Problem::new(Code::InvalidIdempotencyKey, detail));
        let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = values.next() else {
            return Ok(());
        };
        if values.next().is_some() {
            return refuse("The request has more than one Idempotency-Key header: send one.");
        }
        let text = value.to_str().unwrap_or_default().trim_ascii();
        let bare = text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'))
            .unwrap_or(text);
        let Some(key) = parse_uuid(bare) else {
            return refuse(
                "The Idempotency-Key header has to be a UUID, such as \
                 0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11, bare or in double quotes.",
            );
        };
        if self.lease_id.is_some_and(|lease_id| lease_id != key) {
            return refuse(
                "Idempotency-Key and lease_id differ: send one of them, or the same UUID in both.",
            );
        }
        self.lease_id = Some(key);
        Ok(())
    }
}

/// Decodes a part of the query. A plus stays a plus: no valid value contains a space.
fn decode(part: &str) -> Result<Cow<'_, str>, Problem> {
    percent_decode_str(part)
        .decode_utf8()
        .map_err(|_| invalid("The query string is not UTF-8 after percent-decoding."))
}

fn milliseconds(name: &str, value: &str, bounds: RangeInclusive<i32>) -> Result<i32, Problem> {
    number(value, &bounds).ok_or_else(|| {
        let (least, most) = bounds.into_inner();
        invalid(format!(
            "{name} has to be a whole number of milliseconds from {least} to {most}, in digits \
             only (such as {name}=30000)."
        ))
    })
}

/// The refusal of a longer wait says how to keep the place in the line.
fn wait_ms(value: &str) -> Result<i32, Problem> {
    number(value, &(0..=MAX_WAIT_MS)).ok_or_else(|| {
        invalid(format!(
            "wait_ms has to be a whole number of milliseconds from 0 to {MAX_WAIT_MS}, in digits \
             only (such as wait_ms=30000). To wait for longer, ask again with the same lease_id: \
             the place in the line is kept for 20 seconds."
        ))
    })
}

fn number(value: &str, bounds: &RangeInclusive<i32>) -> Option<i32> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let is_plain = digits && (value == "0" || !value.starts_with('0'));
    let number = is_plain.then(|| value.parse().ok())?;
    number.filter(|number| bounds.contains(number))
}

fn lease_id(value: &str) -> Result<Uuid, Problem> {
    parse_uuid(value).ok_or_else(|| {
        invalid(
            "lease_id has to be a UUID, such as 0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11, other \
                 than the nil UUID.",
        )
    })
}

/// Parses the usual form with hyphens only, in either case. A program that forgot to make a UUID
/// sends the nil UUID; as a lease id it would work once and never again.
fn parse_uuid(text: &str) -> Option<Uuid> {
    if text.len() != uuid::fmt::Hyphenated::LENGTH {
        return None;
    }
    Uuid::try_parse(text).ok().filter(|id| !id.is_nil())
}

fn invalid(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Code::InvalidParameter, detail)
}

fn misplaced(call: &Call, name: &str) -> Problem {
    let (call, takes) = (call.name, call.parameters.join(", "));
    invalid(format!(
        "{name} does not go with {call}, which takes: {takes}."
    ))
}

fn unknown(call: &Call, name: &str) -> Problem {
    // Quoted, shortened and escaped: the client chose the text, and logs and terminals show it.
    let shown: String = name.chars().take(64).collect();
    let (call, takes) = (call.name, call.parameters.join(", "));
    Problem::new(
        Code::UnknownParameter,
        format!("There is no parameter {shown:?}: {call} takes {takes}."),
    )
}

#[cfg(test)]
mod tests {
    use super::super::calls::{ACQUIRE, HEARTBEAT, RELEASE};
    use super::*;
    use axum::http::HeaderValue;

    const ID: &str = "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11";

    fn parse(call: &Call, query: &str) -> Result<Parameters, Problem> {
        Parameters::parse(call, Some(query), &HeaderMap::new())
    }

    fn refused(call: &Call, query: &str) -> String {
        let problem = parse(call, query).expect_err(query);
        format!("{}: {}", problem.code().as_str(), problem.detail())
    }

    #[test]
    fn each_call_takes_its_own() {
        let all = parse(
            &ACQUIRE,
            &format!("lease_ms=5000&wait_ms=60000&lease_id={ID}"),
        )
        .unwrap();
        assert_eq!(
            all,
            Parameters {
                lease_ms: Some(5000),
                wait_ms: 60_000,
                lease_id: Some(ID.parse().unwrap())
            }
        );
        assert_eq!(parse(&ACQUIRE, ""), Ok(Parameters::default()));
        assert_eq!(
            Parameters::parse(&ACQUIRE, None, &HeaderMap::new()),
            Ok(Parameters::default())
        );
        assert_eq!(parse(&ACQUIRE, "&&"), Ok(Parameters::default()));
        assert_eq!(
            parse(&ACQUIRE, "lease%5Fms=86400000").unwrap().lease_ms,
            Some(86_400_000)
        );
        assert_eq!(parse(&HEARTBEAT, "lease_ms=1").unwrap().lease_ms, Some(1));
        assert_eq!(
            parse(&RELEASE, &format!("lease_id={}", ID.to_uppercase()))
                .unwrap()
                .lease_id,
            Some(ID.parse().unwrap())
        );
        insta::assert_snapshot!(
            refused(&HEARTBEAT, "wait_ms=1"),
            @"invalid-parameter: wait_ms does not go with heartbeat, which takes: \
              lease_ms, lease_id."
        );
        insta::assert_snapshot!(
            refused(&RELEASE, "lease_ms=1"),
            @"invalid-parameter: lease_ms does not go with release, which takes: lease_id."
        );
    }

    #[test]
    fn numbers_are_plain_digits_within_bounds() {
        for value in [
            "",
            "0",
            "-1",
            "+1",
            "1.0",
            "1e3",
            "%201",
            "1%20",
            "1+",
            "0x10",
            "007",
            "٣",
            "1_000",
            "86400001",
            "18446744073709551616",
            &"9".repeat(5000),
        ] {
            assert!(
                refused(&ACQUIRE, &format!("lease_ms={value}")).contains("from 1 to 86400000"),
                "{value}"
            );
        }
        assert!(refused(&ACQUIRE, "lease_ms").contains("digits only"));
        assert_eq!(parse(&ACQUIRE, "wait_ms=0").unwrap().wait_ms, 0);
        for value in [
            "",
            "-0",
            "00",
            "-1",
            "60001",
            "86400000",
            "4294967296",
            "soon",
        ] {
            let detail = refused(&ACQUIRE, &format!("wait_ms={value}"));
            assert!(detail.contains("from 0 to 60000"), "{value}: {detail}");
        }
        insta::assert_snapshot!(
            refused(&ACQUIRE, "wait_ms=60001"),
            @"invalid-parameter: wait_ms has to be a whole number of milliseconds from 0 to 60000, \
              in digits only (such as wait_ms=30000). To wait for longer, ask again with the same \
              lease_id: the place in the line is kept for 20 seconds."
        );
    }

    #[test]
    fn lease_ids_are_uuids_in_their_usual_form() {
        for value in [
            "",
            "1",
            "0194d3a57c1e7b7e9d3f2f1f6c0a4b11",
            "{0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11}",
            "urn:uuid:0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11",
            "00000000-0000-0000-0000-000000000000",
            "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b1g",
            "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11%00",
        ] {
            assert!(
                refused(&ACQUIRE, &format!("lease_id={value}")).contains("has to be a UUID"),
                "{value}"
            );
        }
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused_by_name() {
        insta::assert_snapshot!(
            refused(&ACQUIRE, "ttl=5"),
            @"unknown-parameter: There is no parameter \"ttl\": acquire takes \
              lease_ms, wait_ms, lease_id."
        );
        insta::assert_snapshot!(
            refused(&RELEASE, "%00%1b[31m=5"),
            @r#"unknown-parameter: There is no parameter "\0\u{1b}[31m": release takes lease_id."#
        );
        insta::assert_snapshot!(
            refused(&ACQUIRE, "lease_ms=5&lease_ms=5"),
            @"invalid-parameter: lease_ms stands twice in the query: send it once."
        );
        assert!(refused(&ACQUIRE, "LEASE_MS=5").starts_with("unknown-parameter"));
        assert!(refused(&ACQUIRE, "%FF=5").contains("not UTF-8"));
        assert!(refused(&ACQUIRE, &"x".repeat(10_000)).len() < 200);
    }

    fn with_key(call: &Call, query: &str, keys: &[&str]) -> Result<Option<Uuid>, String> {
        let mut headers = HeaderMap::new();
        for key in keys {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(key).unwrap());
        }
        Parameters::parse(call, Some(query), &headers)
            .map(|parameters| parameters.lease_id)
            .map_err(|problem| problem.code().as_str().to_owned())
    }

    #[test]
    fn an_idempotency_key_is_a_lease_id_on_acquire() {
        let id = Some(ID.parse().unwrap());
        let quoted = format!("\"{ID}\"");
        assert_eq!(with_key(&ACQUIRE, "", &[ID]), Ok(id));
        assert_eq!(with_key(&ACQUIRE, "", &[&quoted]), Ok(id));
        assert_eq!(
            with_key(&ACQUIRE, &format!("lease_id={ID}"), &[&quoted]),
            Ok(id)
        );
        assert_eq!(with_key(&HEARTBEAT, "", &["whatever"]), Ok(None));
        assert_eq!(with_key(&RELEASE, "", &[ID]), Ok(None));
        let refused = Err("invalid-idempotency-key".to_owned());
        for keys in [
            &["order-7"][..],
            &[""],
            &[&quoted[1..]],
            &["\"\""],
            &[ID, ID],
        ] {
            assert_eq!(with_key(&ACQUIRE, "", keys), refused, "{keys:?}");
        }
        assert_eq!(
            with_key(
                &ACQUIRE,
                "lease_id=0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b12",
                &[ID]
            ),
            refused
        );
    }
}

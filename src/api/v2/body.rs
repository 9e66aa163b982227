//! The bodies of requests: JSON, read strictly, so that a misspelt or misunderstood field is an
//! error and never silently a different request.

use std::fmt;
use std::sync::Arc;

use axum::body::HttpBody;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::Segment;

use super::super::Api;
use super::super::problem::{Code, Problem};
use crate::locks::fields::FieldError;
use crate::plans::LeaseRefused;

/// A body that is read strictly.
pub trait Body: DeserializeOwned {
    /// The largest body, bytes.
    const MAX_BYTES: usize = 64 * 1024;
    /// True if a request may leave its body out: all of its fields are optional.
    const IS_OPTIONAL: bool = false;
}

/// The body of a request.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: Body> FromRequest<Arc<Api>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Arc<Api>) -> Result<Self, Problem> {
        let (head, body) = request.into_parts();
        if T::IS_OPTIONAL && body.is_end_stream() {
            return parse(b"{}").map(Self);
        }
        check_content_type(&head.headers)?;
        if body.size_hint().lower() > T::MAX_BYTES as u64 {
            return Err(too_large(T::MAX_BYTES));
        }
        let bytes = axum::body::to_bytes(body, T::MAX_BYTES)
            .await
            .map_err(|_| too_large(T::MAX_BYTES))?;
        parse(&bytes).map(Self)
    }
}

fn too_large(max: usize) -> Problem {
    let detail = format!(
        "The body is larger than {} KiB, or broke off; nothing was done.",
        max / 1024
    );
    Problem::new(Code::BodyTooLarge, detail)
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let sent = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let (essence, parameters) = sent.split_once(';').unwrap_or((sent, ""));
    let parameters = parameters.trim().to_ascii_lowercase();
    let is_json = essence.trim().eq_ignore_ascii_case("application/json")
        && matches!(
            &*parameters,
            "" | "charset=utf-8" | "charset=\"utf-8\"" | "charset=utf8"
        );
    if is_json {
        return Ok(());
    }
    let detail = "Send the body as JSON in UTF-8, with the header Content-Type: application/json; \
                  nothing was done.";
    Err(Problem::new(Code::UnsupportedMediaType, detail))
}

/// A part of a body that is an object: a derived type would take an array of its fields' values
/// too.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct OfMap<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfMap<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(entries))
            }
        }

        json.deserialize_map(OfMap(std::marker::PhantomData))
            .map(Self)
    }
}

/// A problem with the field of a body that a JSON pointer (RFC 6901) names.
pub fn invalid(pointer: impl Into<String>, detail: impl fmt::Display) -> Problem {
    let pointer = pointer.into();
    let place = if pointer.is_empty() {
        String::new()
    } else {
        format!("{}: ", pointer.escape_debug())
    };
    Problem::new(Code::InvalidBody, format!("{place}{detail}."))
        .with_field("pointer", Value::from(pointer))
}

/// The problem of a field, whose place is under `parent`.
pub fn invalid_field(parent: &str, error: &FieldError) -> Problem {
    invalid(
        format!("{parent}/{}", error.field),
        format_args!("{} {}", error.field, error.problem),
    )
}

/// The problem of a lease at `pointer` that the plan does not allow.
pub fn lease_refused(pointer: &str, error: LeaseRefused) -> Problem {
    match error {
        LeaseRefused::Fixed { .. } => error.into(),
        LeaseRefused::OutOfBounds { min_ms, max_ms } => invalid(
            pointer,
            format_args!("lease_ms has to be from {min_ms} to {max_ms} on your plan"),
        ),
    }
}

/// Reads a body: first its form alone, then as what it has to be.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| invalid("", "the body is not UTF-8: encode it as UTF-8"))?;
    check_form(text)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let read: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut json);
    read.map(|object| object.0).map_err(|error| {
        let mut pointer = String::new();
        for segment in error.path() {
            match segment {
                Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
                Segment::Map { key } | Segment::Enum { variant: key } => {
                    push_key(&mut pointer, key);
                }
                Segment::Unknown => {}
            }
        }
        invalid(pointer, readable(error.inner()))
    })
}

/// A message of serde in words that do not name Rust's types, without its line and column.
fn readable(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let message = message
        .rsplit_once(" at line ")
        .map_or(&*message, |(message, _)| message);
    let words = [
        ("expected i64", "expected a whole number"),
        ("expected i32", "expected a whole number"),
        ("expected struct ", "expected "),
        ("expected a map", "expected an object"),
        ("invalid type: map", "invalid type: object"),
        ("invalid type: sequence", "invalid type: array"),
        ("expected a sequence", "expected an array"),
    ];
    words.iter().fold(message.to_owned(), |text, (from, to)| {
        text.replace(from, to)
    })
}

fn push_key(pointer: &mut String, key: &str) {
    // Shortened: the client chose it, and logs and terminals show it.
    let key: String = key.chars().take(64).collect();
    pointer.push('/');
    pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
}

/// Checks what no type says: that the text is JSON, that no key stands twice in an object, and that
/// nothing contains NUL, which the database cannot hold.
fn check_form(text: &str) -> Result<(), Problem> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut pointer = String::new();
    let checked = Form(&mut pointer)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    checked.map_err(|error| {
        if error.is_data() {
            invalid(pointer, readable(&error))
        } else {
            invalid("", format_args!("the body is not JSON: {error}"))
        }
    })
}

/// Walks through a document. Holds the pointer to the place where it is, or where it ended.
struct Form<'a>(&'a mut String);

fn check_text<E: serde::de::Error>(text: &str) -> Result<(), E> {
    if text.contains('\0') {
        return Err(E::custom("the text contains \\u0000: leave it out"));
    }
    Ok(())
}

impl<'de> DeserializeSeed<'de> for Form<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Form<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        check_text(text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let length = self.0.len();
        for index in 0_usize.. {
            self.0.push_str(&format!("/{index}"));
            if elements.next_element_seed(Form(self.0))?.is_none() {
                break;
            }
            self.0.truncate(length);
        }
        self.0.truncate(length);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let length = self.0.len();
        let mut seen = std::collections::HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            push_key(self.0, &key);
            check_text(&key)?;
            if !seen.insert(key) {
                return Err(A::Error::custom("this key stands twice in its object"));
            }
            entries.next_value_seed(Form(self.0))?;
            self.0.truncate(length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Parts {
        #[serde(default)]
        count: Option<i64>,
        #[serde(default)]
        parts: Vec<Object<Parts>>,
        #[serde(default)]
        rest: Option<serde_json::Map<String, Value>>,
    }

    fn refused(text: &[u8]) -> String {
        let problem = parse::<Parts>(text).unwrap_err();
        assert_eq!(problem.code(), Code::InvalidBody);
        problem.detail().to_owned()
    }

    #[test]
    fn bodies_are_read_strictly() {
        let parsed: Parts = parse(br#"{"count":3,"parts":[{"rest":{"a":[1]}}]}"#).unwrap();
        assert_eq!((parsed.count, parsed.parts.len()), (Some(3), 1));
        assert_eq!(parsed.parts[0].0.rest.as_ref().unwrap()["a"][0], 1);
        insta::assert_snapshot!(
            refused(br#"{"cuont":3}"#),
            @"/cuont: unknown field `cuont`, expected one of `count`, `parts`, `rest`."
        );
        insta::assert_snapshot!(
            refused(br#"{"parts":[{},{"count":"5"}]}"#),
            @r#"/parts/1/count: invalid type: string "5", expected a whole number."#
        );
        insta::assert_snapshot!(
            refused(br#"{"parts":[{"count":1,"count":1}]}"#),
            @"/parts/0/count: this key stands twice in its object."
        );
        insta::assert_snapshot!(
            refused(br#"{"rest":{"a/b":{"~":["x\u0000"]}}}"#),
            @r"/rest/a~1b/~0/0: the text contains \u0000: leave it out."
        );
        insta::assert_snapshot!(
            refused(br#"{"rest":{"\u0000":1}}"#),
            @r"/rest/\0: the text contains \u0000: leave it out."
        );
        insta::assert_snapshot!(
            refused(br#"{"count":1.5}"#),
            @"/count: invalid type: floating point `1.5`, expected a whole number."
        );
        insta::assert_snapshot!(
            refused(b"[]"),
            @"invalid type: array, expected an object."
        );
        for wrong in [
            &b""[..],
            b"{",
            b"{} {}",
            b"{\"count\":1e999}",
            b"{'count':1}",
            b"nul",
        ] {
            assert!(refused(wrong).contains("not JSON"), "{wrong:?}");
        }
        assert!(refused(b"{\"rest\":{\"a\":\"\xff\"}}").contains("not UTF-8"));
        let deep = format!(
            "{{\"rest\":{{\"a\":{}1{}}}}}",
            "[".repeat(5000),
            "]".repeat(5000)
        );
        assert!(refused(deep.as_bytes()).contains("recursion"));
    }
}

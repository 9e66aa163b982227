//! Examples: those of the document, and where it has none, ones that fit its schemas.

use serde_json::{Map, Value, json};

use super::schema::{choices, entries, is_true, members, resolve, text};

/// Deeper than any body of the API. Ends the walk through a schema that refers to itself.
const MAX_DEPTH: usize = 8;

/// Which fields an example has that the document does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields {
    /// Of requests: as few as do.
    Required,
    /// Of answers.
    All,
}

/// The example of a parameter or body; of its schema, if it has none of its own.
pub(super) fn of_value(document: &Value, value: &Value, fields: Fields) -> Value {
    given(value).unwrap_or_else(|| of_schema(document, &value["schema"], fields, "", 0))
}

/// The value of a parameter in an example's URL.
fn of_parameter(document: &Value, parameter: &Value) -> String {
    let name = text(parameter, "name");
    let value = given(parameter)
        .unwrap_or_else(|| of_schema(document, &parameter["schema"], Fields::Required, name, 0));
    match value {
        Value::String(text) => text,
        value => value.to_string(),
    }
}

fn given(value: &Value) -> Option<Value> {
    let several = match &value["examples"] {
        // Of a schema.
        Value::Array(examples) => examples.first(),
        // Of a parameter or body.
        Value::Object(examples) => examples.values().next().map(|example| &example["value"]),
        _ => None,
    };
    value.get("example").or(several).cloned()
}

fn of_schema(document: &Value, schema: &Value, which: Fields, name: &str, depth: usize) -> Value {
    let schema = resolve(document, schema);
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    if let Some(example) = given(schema) {
        return example;
    }
    if let Some(first) = choices(schema).and_then(|choices| choices.first()) {
        return of_schema(document, first, which, name, depth + 1);
    }
    if let Some(first) = members(schema, "enum").next() {
        return first.clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.first().and_then(Value::as_str).unwrap_or_default(),
        kind => kind.as_str().unwrap_or_default(),
    };
    match kind {
        "object" => entries(schema, "properties")
            .filter(|(name, _)| {
                which == Fields::All
                    || members(schema, "required").any(|other| other == name.as_str())
            })
            .map(|(name, property)| {
                let example = of_schema(document, property, which, name, depth + 1);
                (name.clone(), example)
            })
            .collect::<Map<_, _>>()
            .into(),
        "array" => json!([of_schema(
            document,
            &schema["items"],
            which,
            name,
            depth + 1
        )]),
        "integer" | "number" => match (&schema["default"], &schema["minimum"]) {
            (Value::Null, Value::Null) => json!(1),
            (Value::Null, least) => least.clone(),
            (default, _) => default.clone(),
        },
        "boolean" => json!(true),
        "string" => json!(text_for(name, text(schema, "format"))),
        _ => Value::Null,
    }
}

fn text_for(name: &str, format: &str) -> &'static str {
    match (name, format) {
        (_, "uuid") => "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11",
        (_, "date-time") => "2026-11-27T05:00:00.123Z",
        ("namespace", _) => "public",
        ("name", _) => "nightly-report",
        _ => "...",
    }
}

/// The command that sends a request of the call, with the required parameters.
pub(super) fn curl(document: &Value, method: &str, path: &str, operation: &Value) -> String {
    let mut url = format!("{}{path}", text(&document["servers"][0], "url"));
    let mut query = Vec::new();
    for parameter in members(operation, "parameters") {
        let (name, value) = (text(parameter, "name"), of_parameter(document, parameter));
        let value = encoded(&value);
        match text(parameter, "in") {
            "path" => url = url.replace(&format!("{{{name}}}"), &value),
            "query" if is_true(parameter, "required") => query.push(format!("{name}={value}")),
            _ => {}
        }
    }
    if !query.is_empty() {
        url = format!("{url}?{}", query.join("&"));
    }
    let is_stream = entries(&operation["responses"]["200"], "content")
        .any(|(media_type, _)| media_type == "text/event-stream");
    let mut command = "curl".to_owned();
    if is_stream {
        command.push_str(" --no-buffer");
    }
    let body = entries(&operation["requestBody"], "content").next();
    if method != "GET" && (method != "POST" || body.is_none()) {
        command.push_str(&format!(" -X {method}"));
    }
    command.push_str(" -u \"$LOCKABLE_AUTH_TOKEN:\"");
    if let Some((media_type, body)) = body {
        let example = of_value(document, body, Fields::Required);
        let quoted = in_lines(&example).replace('\'', r"'\''");
        command.push_str(&format!(
            " \\\n  -H 'Content-Type: {media_type}' \\\n  -d '{quoted}'"
        ));
    }
    let quote = if url.contains('?') { "'" } else { "" };
    format!("{command} \\\n  {quote}{url}{quote}")
}

/// JSON in one line, if it is short.
fn in_lines(value: &Value) -> String {
    let line = value.to_string();
    if line.len() <= 60 {
        line
    } else {
        format!("{value:#}")
    }
}

/// Percent-encodes what stands in a path or query.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        json!({
            "servers": [{"url": "https://locks.example.com"}],
            "components": {"schemas": {
                "Lease": {"type": "object", "required": ["lease_id"], "properties": {
                    "lease_id": {"type": "string", "format": "uuid"},
                    "limit": {"type": ["integer", "null"], "minimum": 2}
                }},
                "Endless": {"type": "array", "items": {"$ref": "#/components/schemas/Endless"}}
            }}
        })
    }

    #[test]
    fn a_schema_without_an_example_gets_one_that_fits() {
        let lease = json!({"schema": {"$ref": "#/components/schemas/Lease"}});
        let id = "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11";
        let few = of_value(&document(), &lease, Fields::Required);
        assert_eq!(few, json!({"lease_id": id}));
        let all = of_value(&document(), &lease, Fields::All);
        assert_eq!(all, json!({"lease_id": id, "limit": 2}));
        let own = json!({"example": {"a": 1}, "schema": {"$ref": "#/components/schemas/Lease"}});
        assert_eq!(of_value(&document(), &own, Fields::All), json!({"a": 1}));
        let endless = json!({"schema": {"$ref": "#/components/schemas/Endless"}});
        assert!(of_value(&document(), &endless, Fields::All).is_array());
    }

    #[test]
    fn commands_are_quoted_for_the_shell() {
        let operation = json!({
            "parameters": [
                {"name": "name", "in": "path", "required": true, "example": "a/b c",
                 "schema": {"type": "string"}},
                {"name": "from", "in": "query", "required": true, "schema": {"type": "integer"}},
                {"name": "to", "in": "query", "required": false, "schema": {"type": "integer"}}
            ],
            "requestBody": {"content": {"application/json": {"example": {"reason": "it's"}}}},
            "responses": {}
        });
        assert_eq!(
            curl(&document(), "POST", "/v2/{name}", &operation),
            "curl -u \"$LOCKABLE_AUTH_TOKEN:\" \\\n  -H 'Content-Type: application/json' \\\n  \
             -d '{\"reason\":\"it'\\''s\"}' \\\n  \
             'https://locks.example.com/v2/a%2Fb%20c?from=1'"
        );
    }
}

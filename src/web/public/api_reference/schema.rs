//! The schemas of the document: what a value is called, its bounds, its fields.

use serde_json::{Map, Value};

use super::prose::Prose;
use crate::web::ui::number::grouped;

/// The name of a type in pieces, each with the object that it leads to, if it is one.
pub(crate) type TypeName = Vec<(String, Option<String>)>;

/// A parameter, a header, or a field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    /// Where a parameter stands: `path`, `query` or `header`.
    pub(crate) place: Option<String>,
    pub(crate) is_required: bool,
    pub(crate) kind: TypeName,
    /// Such as `1 to 1,000`; empty if there are none.
    pub(crate) bounds: String,
    pub(crate) description: Prose,
}

impl Field {
    /// A parameter of a call.
    pub(super) fn of_parameter(parameter: &Value) -> Self {
        let place = text(parameter, "in").to_owned();
        Self {
            place: Some(place),
            is_required: is_true(parameter, "required"),
            ..Self::of_value(text(parameter, "name"), parameter)
        }
    }

    /// What has a schema of its own under `schema`, and a description beside it.
    pub(super) fn of_value(name: &str, value: &Value) -> Self {
        let schema = &value["schema"];
        let description = match text(value, "description") {
            "" => text(schema, "description"),
            description => description,
        };
        Self {
            name: name.to_owned(),
            place: None,
            is_required: false,
            kind: type_name(schema),
            bounds: bounds(schema),
            description: Prose::new(description),
        }
    }
}

/// A string of an object; empty if it is not there.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub(super) fn is_true(value: &Value, key: &str) -> bool {
    value[key].as_bool().unwrap_or_default()
}

pub(super) fn members<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

pub(super) fn entries<'a>(
    value: &'a Value,
    key: &str,
) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value[key].as_object().into_iter().flat_map(Map::iter)
}

/// The name of the schema that a reference leads to.
pub(super) fn referred(schema: &Value) -> Option<&str> {
    text(schema, "$ref").strip_prefix("#/components/schemas/")
}

/// The schema itself, or the one that it refers to.
pub(super) fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match referred(schema) {
        Some(name) => &document["components"]["schemas"][name],
        None => schema,
    }
}

/// The names of the schemas that this one refers to, at any depth, without those of these.
pub(super) fn references(schema: &Value) -> Vec<&str> {
    match schema {
        Value::Object(object) => referred(schema)
            .into_iter()
            .chain(object.values().flat_map(references))
            .collect(),
        Value::Array(schemas) => schemas.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

/// The choices of a schema that has several.
pub(super) fn choices(schema: &Value) -> Option<&Vec<Value>> {
    ["oneOf", "anyOf", "allOf"]
        .iter()
        .find_map(|key| schema[*key].as_array())
}

/// The fields of an object, those that are required first.
pub(super) fn fields(schema: &Value) -> Vec<Field> {
    let mut fields: Vec<_> = entries(schema, "properties")
        .map(|(name, property)| Field {
            is_required: members(schema, "required").any(|other| other == name.as_str()),
            kind: type_name(property),
            bounds: bounds(property),
            description: Prose::new(match text(property, "description") {
                // Of a field that may be null, the description is at the other choice.
                "" => choices(property)
                    .into_iter()
                    .flatten()
                    .map(|choice| text(choice, "description"))
                    .find(|text| !text.is_empty())
                    .unwrap_or_default(),
                description => description,
            }),
            name: name.clone(),
            place: None,
        })
        .collect();
    fields.sort_by_key(|field| !field.is_required);
    fields
}

/// The name of the values that the schema describes.
pub(super) fn type_name(schema: &Value) -> TypeName {
    if let Some(name) = referred(schema) {
        return vec![(name.to_owned(), Some(name.to_owned()))];
    }
    if let Some(choices) = choices(schema) {
        return joined(choices.iter().map(type_name));
    }
    let values: Vec<_> = members(schema, "enum").filter_map(Value::as_str).collect();
    if !values.is_empty() {
        return plain(values.join(" or "));
    }
    match &schema["type"] {
        Value::String(name) => of_type(name, schema),
        Value::Array(names) => joined(
            names
                .iter()
                .filter_map(Value::as_str)
                .map(|name| of_type(name, schema)),
        ),
        _ => plain("any JSON"),
    }
}

fn of_type(name: &str, schema: &Value) -> TypeName {
    match (name, text(schema, "format")) {
        ("array", _) => [plain("array of "), type_name(&schema["items"])].concat(),
        ("string", "uuid") => plain("UUID"),
        ("string", "date-time") => plain("instant"),
        _ => plain(name),
    }
}

fn plain(name: impl Into<String>) -> TypeName {
    vec![(name.into(), None)]
}

fn joined(names: impl Iterator<Item = TypeName>) -> TypeName {
    let names: Vec<_> = names.collect();
    names.join(&plain(" or ")[0])
}

/// The bounds of a value and its default, in words.
pub(super) fn bounds(schema: &Value) -> String {
    let range = |least: &str, most: &str, unit: &str| {
        let (least, most) = (schema[least].as_i64(), schema[most].as_i64());
        match (least.filter(|least| *least != 0), most) {
            (None, None) => None,
            (None, Some(most)) if least.is_none() => Some(format!("at most {}", grouped(most))),
            (None, Some(most)) => Some(format!("0 to {}", grouped(most))),
            (Some(least), None) => Some(format!("at least {}", grouped(least))),
            (Some(least), Some(most)) => Some(format!("{} to {}", grouped(least), grouped(most))),
        }
        .map(|range| format!("{range}{unit}"))
    };
    let default = match &schema["default"] {
        Value::Null => None,
        default => Some(format!("default {default}")),
    };
    let bounds = [
        range("minimum", "maximum", ""),
        range("minLength", "maxLength", " characters"),
        range("minItems", "maxItems", " items"),
        default,
    ];
    bounds.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(schema: &Value) -> String {
        let pieces = type_name(schema).into_iter();
        pieces.map(|(text, _)| text).collect()
    }

    #[test]
    fn types_are_named_for_people() {
        for (schema, expected) in [
            (
                json!({"type": ["integer", "null"], "format": "int64"}),
                "integer or null",
            ),
            (json!({"type": "string", "format": "uuid"}), "UUID"),
            (
                json!({"type": "string", "enum": ["free", "held"]}),
                "free or held",
            ),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                "array of string",
            ),
            (
                json!({"oneOf": [{"$ref": "#/components/schemas/Lease"}, {"type": "null"}]}),
                "Lease or null",
            ),
            (json!({}), "any JSON"),
        ] {
            assert_eq!(name(&schema), expected, "{schema}");
        }
        let reference = json!({"$ref": "#/components/schemas/Lease"});
        assert_eq!(type_name(&reference)[0].1.as_deref(), Some("Lease"));
    }

    #[test]
    fn bounds_are_words() {
        for (schema, expected) in [
            (
                json!({"minimum": 1, "maximum": 86_400_000}),
                "1 to 86,400,000",
            ),
            (
                json!({"minimum": 0, "maximum": 60_000, "default": 0}),
                "0 to 60,000, default 0",
            ),
            (json!({"minimum": 0}), ""),
            (json!({"maxLength": 256}), "at most 256 characters"),
            (json!({"minItems": 1}), "at least 1 items"),
        ] {
            assert_eq!(bounds(&schema), expected, "{schema}");
        }
    }

    #[test]
    fn required_fields_come_first() {
        let schema = json!({
            "required": ["name"],
            "properties": {"holder": {"type": "string"}, "name": {"type": "string"}}
        });
        let names: Vec<_> = fields(&schema)
            .into_iter()
            .map(|field| field.name)
            .collect();
        assert_eq!(names, ["name", "holder"]);
    }
}

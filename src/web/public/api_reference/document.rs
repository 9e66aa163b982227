//! The OpenAPI document as the page shows it: calls by tag, and the objects in their bodies.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::example::{self, Fields};
use super::prose::Prose;
use super::schema::{
    self, Field, TypeName, bounds, entries, is_true, members, referred, resolve, text, type_name,
};
use crate::web::ui::snippet::Snippet;

/// The methods that an OpenAPI path may have.
const METHODS: &[&str] = &["get", "post", "put", "patch", "delete"];

/// The document, ready to be shown.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) description: Prose,
    pub(crate) server: String,
    pub(crate) schemes: Vec<Scheme>,
    /// The problems that every call may have.
    pub(crate) common: Vec<Problems>,
    pub(crate) groups: Vec<Group>,
    pub(crate) objects: Vec<Object>,
}

/// A way to send the token.
#[derive(Debug)]
pub(crate) struct Scheme {
    pub(crate) name: String,
    pub(crate) description: Prose,
}

/// The calls of a tag.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) description: Prose,
    pub(crate) calls: Vec<Call>,
}

/// A call; several methods of a path are one call if they differ in nothing else.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) methods: Vec<String>,
    pub(crate) path: String,
    pub(crate) summary: Prose,
    pub(crate) description: Vec<Prose>,
    pub(crate) parameters: Vec<Field>,
    pub(crate) body: Option<Body>,
    pub(crate) request: Snippet,
    pub(crate) answers: Vec<Answer>,
    /// Those that not every call may have.
    pub(crate) problems: Vec<Problems>,
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) description: Prose,
    pub(crate) fields: Vec<Field>,
}

/// An answer that is no problem.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: String,
    pub(crate) description: Prose,
    pub(crate) media_type: Option<String>,
    pub(crate) kind: TypeName,
    pub(crate) headers: Vec<Field>,
    pub(crate) example: Option<Snippet>,
}

/// The codes of the problems with a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems {
    pub(crate) status: String,
    pub(crate) title: &'static str,
    pub(crate) codes: Vec<String>,
}

/// An object in bodies.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) description: Prose,
    /// What it is, if it has no fields.
    pub(crate) kind: TypeName,
    pub(crate) bounds: String,
    pub(crate) fields: Vec<Field>,
}

/// A status and a code.
type Problem = (String, String);

/// An operation, with the methods that it is there for.
struct Operation<'a> {
    path: &'a str,
    methods: Vec<&'static str>,
    name: String,
    value: &'a Value,
}

impl Reference {
    /// Reads a document.
    pub(crate) fn new(document: &Value) -> Self {
        let operations = operations(document);
        let mut common: Option<BTreeSet<Problem>> = None;
        for operation in &operations {
            let own = problems(operation.value);
            common = Some(match common {
                Some(common) => &common & &own,
                None => own,
            });
        }
        let common = common.unwrap_or_default();
        let mut groups: Vec<Group> = members(document, "tags")
            .map(|tag| group(text(tag, "name"), text(tag, "description")))
            .collect();
        for operation in &operations {
            let tag = operation.value["tags"][0].as_str().unwrap_or("other");
            let call = call(document, operation, &common);
            let id = group(tag, "").id;
            match groups.iter_mut().find(|group| group.id == id) {
                Some(group) => group.calls.push(call),
                None => groups.push(Group {
                    calls: vec![call],
                    ..group(tag, "")
                }),
            }
        }
        groups.retain(|group| !group.calls.is_empty());
        Self {
            description: Prose::new(text(&document["info"], "description")),
            server: text(&document["servers"][0], "url").to_owned(),
            schemes: entries(&document["components"], "securitySchemes")
                .map(|(_, scheme)| Scheme {
                    name: capitalized(text(scheme, "scheme")),
                    description: Prose::new(text(scheme, "description")),
                })
                .collect(),
            common: by_status(&common),
            groups,
            objects: objects(document, &operations),
        }
    }
}

fn group(name: &str, description: &str) -> Group {
    Group {
        id: format!("calls-{}", id_of(name)),
        name: capitalized(name),
        description: Prose::new(description),
        calls: Vec::new(),
    }
}

/// The operations, those of one path that differ only in their methods as one.
fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut all: Vec<Operation> = Vec::new();
    for (path, item) in entries(document, "paths") {
        for method in METHODS {
            let Some(value) = item.get(*method) else {
                continue;
            };
            let name = text(value, "operationId");
            match all.last_mut() {
                Some(last) if last.path == path && is_same(last.value, value) => {
                    let common = last.name.chars().zip(name.chars());
                    last.name = common
                        .take_while(|(one, other)| one == other)
                        .map(|(one, _)| one)
                        .collect();
                    last.methods.push(method);
                }
                _ => all.push(Operation {
                    path,
                    methods: vec![method],
                    name: name.to_owned(),
                    value,
                }),
            }
        }
    }
    all
}

fn is_same(one: &Value, other: &Value) -> bool {
    let without_id = |operation: &Value| {
        let mut operation = operation.clone();
        operation["operationId"] = json!(null);
        operation
    };
    without_id(one) == without_id(other)
}

fn call(document: &Value, operation: &Operation, common: &BTreeSet<Problem>) -> Call {
    let value = operation.value;
    let name = operation.name.replace('_', " ").trim().to_owned();
    let id = format!("call-{}", id_of(&name));
    let first = operation.methods[0].to_uppercase();
    let request = example::curl(document, &first, operation.path, value);
    let own = &problems(value) - common;
    Call {
        methods: operation
            .methods
            .iter()
            .map(|method| method.to_uppercase())
            .collect(),
        path: operation.path.to_owned(),
        summary: Prose::new(text(value, "summary")),
        description: match text(value, "description") {
            "" => Vec::new(),
            description => Prose::paragraphs(description),
        },
        parameters: members(value, "parameters")
            .map(Field::of_parameter)
            .collect(),
        body: body(document, &value["requestBody"]),
        request: Snippet::new(format!("{id}-request"), format!("Request: {name}"), request),
        answers: entries(value, "responses")
            .filter(|(_, response)| !is_problem(response))
            .map(|(status, response)| answer(document, &id, &name, status, response))
            .collect(),
        problems: by_status(&own),
        id,
        name: capitalized(&name),
    }
}

fn body(document: &Value, body: &Value) -> Option<Body> {
    let (_, content) = entries(body, "content").next()?;
    let description = match text(body, "description") {
        "" => text(resolve(document, &content["schema"]), "description"),
        description => description,
    };
    Some(Body {
        description: Prose::new(description),
        fields: schema::fields(resolve(document, &content["schema"])),
    })
}

fn answer(document: &Value, id: &str, name: &str, status: &str, response: &Value) -> Answer {
    let content = entries(response, "content").next();
    let is_json = content.is_some_and(|(media_type, _)| media_type == "application/json");
    let example = content.and_then(|(_, content)| {
        let text = match example::of_value(document, content, Fields::All) {
            // An example of what is no JSON stands in a string.
            Value::String(text) if !is_json && text != "..." => text,
            _ if !is_json => return None,
            value => format!("{value:#}"),
        };
        let caption = format!("Answer, {status}: {name}");
        Some(Snippet::new(format!("{id}-answer-{status}"), caption, text))
    });
    Answer {
        status: status.to_owned(),
        description: Prose::new(text(response, "description")),
        media_type: content
            .filter(|_| !is_json)
            .map(|(media_type, _)| media_type.clone()),
        kind: content
            .map(|(_, content)| &content["schema"])
            .filter(|schema| referred(schema).is_some() || schema["type"] == "array")
            .map(type_name)
            .unwrap_or_default(),
        headers: entries(response, "headers")
            .map(|(name, header)| Field {
                is_required: is_true(header, "required"),
                ..Field::of_value(name, header)
            })
            .collect(),
        example,
    }
}

fn is_problem(response: &Value) -> bool {
    response["content"]
        .get("application/problem+json")
        .is_some()
}

/// The problems that a call may have. The document describes them as paragraphs, each of which
/// begins with a code between backticks.
fn problems(operation: &Value) -> BTreeSet<Problem> {
    entries(operation, "responses")
        .filter(|(_, response)| is_problem(response))
        .flat_map(|(status, response)| {
            text(response, "description")
                .split("\n\n")
                .filter_map(|line| line.strip_prefix('`')?.split_once("`:"))
                .map(|(code, _)| (status.clone(), code.to_owned()))
        })
        .collect()
}

fn by_status(problems: &BTreeSet<Problem>) -> Vec<Problems> {
    let mut all: Vec<Problems> = Vec::new();
    for (status, code) in problems {
        match all.last_mut() {
            Some(last) if last.status == *status => last.codes.push(code.clone()),
            _ => all.push(Problems {
                status: status.clone(),
                title: StatusCode::from_bytes(status.as_bytes())
                    .ok()
                    .and_then(|status| status.canonical_reason())
                    .unwrap_or_default(),
                codes: vec![code.clone()],
            }),
        }
    }
    all
}

/// The schemas that bodies refer to. The bodies of requests are shown at their calls.
fn objects(document: &Value, operations: &[Operation]) -> Vec<Object> {
    let schemas = &document["components"]["schemas"];
    let mut names = BTreeSet::new();
    let mut to_visit: Vec<&str> = Vec::new();
    for operation in operations {
        let bodies = entries(&operation.value["requestBody"], "content");
        let bodies = bodies.map(|(_, body)| resolve(document, &body["schema"]));
        to_visit.extend(bodies.flat_map(schema::references));
        to_visit.extend(schema::references(&operation.value["responses"]));
    }
    while let Some(name) = to_visit.pop() {
        if names.insert(name) {
            to_visit.extend(schema::references(&schemas[name]));
        }
    }
    names
        .into_iter()
        .map(|name| {
            let schema = &schemas[name];
            Object {
                name: name.to_owned(),
                description: Prose::new(text(schema, "description")),
                kind: type_name(schema),
                bounds: bounds(schema),
                fields: schema::fields(schema),
            }
        })
        .collect()
}

fn id_of(name: &str) -> String {
    name.to_lowercase()
        .replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

fn capitalized(name: &str) -> String {
    let mut letters = name.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with these codes, described as in the document.
    fn problem(codes: &[&str]) -> Value {
        let lines: Vec<_> = codes.iter().map(|code| format!("`{code}`: why.")).collect();
        json!({
            "description": lines.join("\n\n"),
            "content": {"application/problem+json": {}}
        })
    }

    #[test]
    fn methods_that_differ_in_nothing_else_are_one_call_and_common_problems_stand_once() {
        let acquire = |id: &str| {
            json!({
                "operationId": id, "tags": ["version 1"], "summary": "Takes it.",
                "responses": {
                    "200": {"description": "It is yours"},
                    "401": problem(&["token-refused"]),
                    "409": problem(&["lock-held", "lease-id-used"])
                }
            })
        };
        let mut other = acquire("list_locks");
        other["tags"] = json!(["account"]);
        other["responses"]["409"] = problem(&["lock-held"]);
        let reference = Reference::new(&json!({
            "tags": [{"name": "unused"}, {"name": "version 1", "description": "Plain"}],
            "paths": {
                "/v1/acquire/{name}": {"get": acquire("v1_get"), "post": acquire("v1_post")},
                "/v2/locks": {"get": other}
            }
        }));
        let [plain, account] = &reference.groups[..] else {
            panic!("{:?}", reference.groups)
        };
        assert_eq!((&*plain.name, &*account.name), ("Version 1", "Account"));
        let [call] = &plain.calls[..] else {
            panic!("{:?}", plain.calls)
        };
        assert_eq!(call.methods, ["GET", "POST"]);
        assert_eq!((&*call.id, &*call.name), ("call-v1", "V1"));
        assert_eq!(call.answers.len(), 1);
        let codes = |problems: &[Problems]| -> Vec<String> {
            problems.iter().flat_map(|one| one.codes.clone()).collect()
        };
        assert_eq!(codes(&reference.common), ["token-refused", "lock-held"]);
        assert_eq!(codes(&call.problems), ["lease-id-used"]);
        assert!(account.calls[0].problems.is_empty());
    }
}

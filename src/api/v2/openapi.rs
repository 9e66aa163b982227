//! The description of both versions of the API: OpenAPI 3.1, at `/openapi.json`. The calls of
//! version 2 describe themselves beside their handlers, those of version 1 by their table; here is
//! what all of them have in common: credentials, and the problems that each can meet.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use serde::Serialize;
use serde_json::json;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Content, ObjectBuilder, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder,
    ServerBuilder, Type,
};
use utoipa::{OpenApi as _, ToSchema};

use super::super::calls::{self, CALLS, Call};
use super::super::problem::Code;

/// What the document says beside the calls.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Lockable",
        description = "A distributed lock service: take a named lock, keep it with heartbeats, \
                       give it back. A lease that is not renewed ends by itself. Durations are \
                       whole milliseconds, instants RFC 3339 in UTC.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "locks", description = "Taking, keeping, giving back and seeing locks"),
        (name = "leases", description = "Many leases in one request"),
        (name = "events", description = "What happened to the locks of a private namespace"),
        (name = "account", description = "Managing tokens, namespaces and the account: with a \
                                          token of scope manage"),
        (name = "version 1", description = "The plain API: three calls, two answers"),
    ),
    components(schemas(ProblemBody)),
)]
struct Document;

/// A problem document (RFC 9457): the body of every answer that is no success.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "https://locks.example.com/docs#problem-lock-held", "title": "The lock is held",
    "status": 409, "detail": "The lock is held, or others wait for it.", "code": "lock-held",
    "request_id": "0194d3a5-7c1e-7b7e-9d3f-2f1f6c0a4b11", "waited_ms": 0, "retry_after_ms": 1000
}))]
struct ProblemBody {
    /// The URL of the code's documentation.
    r#type: String,
    /// A few words, the same for every occurrence.
    title: String,
    /// The status of the answer.
    status: u16,
    /// What happened, and what to do.
    detail: String,
    /// What programs decide by. A code never changes its meaning.
    code: String,
    /// The request's id, as in the header `X-Request-Id` and the service's log.
    request_id: String,
}

/// The calls whose body may be left out: all of its fields are optional.
const BODY_IS_OPTIONAL: [&str; 2] = ["acquire", "rotate_token"];

/// The document of the calls of version 2, with everything else.
pub fn document(calls: OpenApi, public_url: &str) -> OpenApi {
    let mut document = Document::openapi();
    document.merge(calls);
    for call in CALLS {
        let mut item = PathItem::default();
        for method in call.methods {
            let method = if *method == Method::GET {
                HttpMethod::Get
            } else {
                HttpMethod::Post
            };
            let operation = Some(version_1(call, &method));
            match method {
                HttpMethod::Get => item.get = operation,
                _ => item.post = operation,
            }
        }
        document.paths.paths.insert(call.template.to_owned(), item);
    }
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            describe_problems(path, operation);
            if let Some(RefOr::T(body)) = &mut operation.request_body
                && operation
                    .operation_id
                    .as_deref()
                    .is_some_and(|name| BODY_IS_OPTIONAL.contains(&name))
            {
                body.required = Some(Required::False);
            }
        }
    }
    add_credentials(&mut document);
    document.servers = Some(vec![
        ServerBuilder::new()
            .url(public_url.trim_end_matches('/'))
            .build(),
    ]);
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get,
        post,
        put,
        patch,
        delete,
        ..
    } = item;
    [get, post, put, patch, delete].into_iter().flatten()
}

fn add_credentials(document: &mut OpenApi) {
    let components = document.components.get_or_insert_default();
    let scheme = |scheme, description: &str| {
        SecurityScheme::Http(
            HttpBuilder::new()
                .scheme(scheme)
                .description(Some(description))
                .build(),
        )
    };
    components.add_security_scheme(
        "bearer",
        scheme(HttpAuthScheme::Bearer, "The API token. Version 2 only."),
    );
    components.add_security_scheme(
        "basic",
        scheme(
            HttpAuthScheme::Basic,
            "The API token as the user name, with an empty password.",
        ),
    );
    let none: [&str; 0] = [];
    document.security = Some(vec![
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::new("basic", none),
    ]);
}

/// Adds an answer for each status that a problem of the call may have.
fn describe_problems(path: &str, operation: &mut Operation) {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes_of(path, operation) {
        by_status
            .entry(code.status().as_u16())
            .or_default()
            .push(code);
    }
    for (status, codes) in by_status {
        let lines: Vec<String> = codes
            .iter()
            .map(|code| format!("`{}`: {}", code.as_str(), code.meaning()))
            .collect();
        let response = ResponseBuilder::new()
            .description(lines.join("\n\n"))
            .content(
                "application/problem+json",
                Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem")))),
            )
            .build();
        let responses = &mut operation.responses.responses;
        responses
            .entry(status.to_string())
            .or_insert(RefOr::T(response));
    }
}

fn codes_of(path: &str, operation: &Operation) -> Vec<Code> {
    let mut codes = vec![
        Code::CredentialsMissing,
        Code::CredentialsMalformed,
        Code::TokenRefused,
        Code::PrefetchRefused,
        Code::CrossSiteRefused,
        Code::TooManyRequests,
        Code::TooManyUnknownTokens,
        Code::InternalError,
        Code::Unavailable,
        Code::Overloaded,
        Code::ShuttingDown,
        Code::TimedOut,
    ];
    if path.starts_with("/v1/") {
        codes.extend([
            Code::InvalidName,
            Code::InvalidParameter,
            Code::UnknownParameter,
            Code::InvalidIdempotencyKey,
            Code::UnexpectedBody,
            Code::MethodNotAllowed,
        ]);
        if path == calls::ACQUIRE.template {
            codes.extend([
                Code::PlanDoesNotAllow,
                Code::LiveLocksLimit,
                Code::TooManyWaiters,
            ]);
        }
        return codes;
    }
    codes.extend([Code::NotFound, Code::MethodNotAllowed]);
    if path.contains("{name}") {
        codes.push(Code::InvalidName);
    }
    if operation.request_body.is_some() {
        codes.extend([
            Code::InvalidBody,
            Code::InvalidParameter,
            Code::PlanDoesNotAllow,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
        ]);
    }
    let takes_query = operation
        .parameters
        .iter()
        .flatten()
        .any(|parameter| {
            matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query)
        });
    if takes_query {
        codes.extend([Code::InvalidParameter, Code::UnknownParameter]);
    }
    match operation.operation_id.as_deref().unwrap_or_default() {
        "acquire" => codes.extend([
            Code::LockHeld,
            Code::LeaseIdUsed,
            Code::LimitConflict,
            Code::LiveLocksLimit,
            Code::TooManyWaiters,
        ]),
        "acquire_all" => codes.extend([Code::LockHeld, Code::LeaseIdUsed, Code::LiveLocksLimit]),
        "heartbeat" | "release" => codes.push(Code::LeaseLost),
        "lock_history" => codes.push(Code::PlanDoesNotAllow),
        "lock_events" | "namespace_events" => {
            codes.extend([Code::InvalidParameter, Code::UnknownParameter]);
        }
        "break" => codes.extend([Code::LeaseLost, Code::ScopeRequired]),
        "create_token" => codes.push(Code::EmailNotConfirmed),
        "create_namespace" => codes.push(Code::NamespaceTaken),
        "delete_namespace" => codes.push(Code::NamespaceInUse),
        _ => {}
    }
    codes.sort_by_key(|code| Code::ALL.iter().position(|other| other == code));
    codes.dedup();
    codes
}

/// A call of version 1. Its answers are the same with both methods.
fn version_1(call: &Call, method: &HttpMethod) -> Operation {
    let word = match method {
        HttpMethod::Get => "get",
        _ => "post",
    };
    let text = |kind: Type| ObjectBuilder::new().schema_type(kind).build();
    let mut operation = OperationBuilder::new()
        .operation_id(Some(format!("v1_{}_{word}", call.name)))
        .tag("version 1")
        .summary(Some(format!("Version 1: {}", call.name)))
        .parameter(
            ParameterBuilder::new()
                .name("name")
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some("The lock's name, percent-encoded"))
                .schema(Some(text(Type::String))),
        );
    for parameter in call.parameters {
        let (kind, description) = match *parameter {
            "lease_ms" => (Type::Integer, "The length of the lease, milliseconds"),
            "wait_ms" => (
                Type::Integer,
                "The longest wait for the lock, milliseconds, at most 60,000",
            ),
            _ => (Type::String, "The id of the lease: a UUID"),
        };
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(*parameter)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(description))
                .schema(Some(text(kind))),
        );
    }
    let verdict = ObjectBuilder::new()
        .property(
            "response",
            ObjectBuilder::new().schema_type(Type::Boolean).build(),
        )
        .required("response")
        .examples([json!({"response": true})])
        .build();
    let mut response = Response::new(format!(
        "`true`: {}. `false`: {}.",
        call.true_means, call.false_means
    ));
    response.content.insert(
        "application/json".to_owned(),
        RefOr::T(Content::new(Some(RefOr::T(verdict.into())))),
    );
    operation
        .response(StatusCode::OK.as_str(), response)
        .build()
}

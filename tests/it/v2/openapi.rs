//! The description at `/openapi.json`.

use serde_json::Value;

use super::kit::*;

async fn document(app: &TestApp) -> Value {
    let answer = app.anonymous().get("/openapi.json").await;
    assert_eq!(answer.required("content-type"), "application/json");
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_as_it_was_agreed() {
    let app = TestApp::start_with(|settings| {
        settings.public_url = Some("https://locks.example.com".parse().unwrap());
    })
    .await;
    let mut document = document(&app).await;
    document["info"]["version"] = "the package's".into();
    insta::assert_json_snapshot!("openapi", document);
}

/// Every reference leads somewhere, every call has a success and says what can go wrong.
#[tokio::test(flavor = "multi_thread")]
async fn the_description_is_whole() {
    let app = TestApp::start().await;
    let document = document(&app).await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let responses = operation["responses"].as_object().unwrap();
            let has = |status: &str| responses.contains_key(status);
            assert!(
                responses.keys().any(|status| status.starts_with('2')),
                "{method} {path}"
            );
            for status in ["401", "403", "405", "429", "500", "503"] {
                assert!(has(status), "{method} {path}: {status}");
            }
            let has_body = operation.get("requestBody").is_some();
            assert_eq!(has("413") && has("415"), has_body, "{method} {path}");
            assert!(operation["summary"].is_string(), "{method} {path}");
        }
    }
}

/// The reference for people has each call of version 2.
#[tokio::test(flavor = "multi_thread")]
async fn the_reference_has_every_call() {
    let reference = include_str!("../../../docs/api-v2.md");
    let app = TestApp::start().await;
    let document = document(&app).await;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let call = format!("`{} {path}`", method.to_uppercase());
            assert!(
                path.starts_with("/v1/") || reference.contains(&call),
                "docs/api-v2.md lacks {call}"
            );
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                references.push(reference.clone());
            }
            fields.values().for_each(|value| collect(value, references));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

//! The API reference: the document of `/openapi.json` as a page.

use std::collections::HashSet;

use lockable::tokens::Scope;
use serde_json::Value;
use tokio::process::Command;

use super::*;

/// The text of HTML with its entities resolved.
fn unescaped(html: &str) -> String {
    html.replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#60;", "<")
        .replace("&#62;", ">")
        .replace("&#38;", "&")
}

/// What stands between each of these and the next quotation mark.
fn values<'a>(html: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    html.split(before)
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
}

/// The operations of the document: method, path and operation.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let item = item.as_object().unwrap();
            item.iter()
                .map(move |(method, value)| (method.to_uppercase(), path.clone(), value))
        })
        .collect()
}

/// The part of the page about the calls of a path, each by itself.
fn calls_of<'a>(page: &'a str, path: &str) -> Vec<&'a str> {
    let place = format!("<code>{path}</code></p>");
    page.split(r#"<div class="call">"#)
        .filter(|call| call.contains(&place))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_the_document_is_on_the_page() {
    let app = TestApp::start().await;
    let document = app.anonymous().get("/openapi.json").await.json();
    let answer = app.browser().get("/docs/api").await;
    assert_eq!(answer.status, 200);
    let page = unescaped(&answer.text);
    let operations = operations(&document);
    assert!(operations.len() >= 10, "{}", operations.len());
    for (method, path, operation) in operations {
        let calls = calls_of(&page, &path);
        let badge = format!(r#"<span class="badge">{method}</span>"#);
        let call = calls.into_iter().find(|call| call.contains(&badge));
        let call = call.unwrap_or_else(|| panic!("{method} {path}"));
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            assert!(
                call.contains(&format!("<code>{name}</code>")),
                "{path}: {name}"
            );
        }
        let body = &operation["requestBody"]["content"]["application/json"]["schema"];
        if let Some(reference) = body["$ref"].as_str() {
            let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
            for name in schema["properties"].as_object().unwrap().keys() {
                assert!(
                    call.contains(&format!("<code>{name}</code>")),
                    "{path}: {name}"
                );
            }
        }
        for (status, response) in operation["responses"].as_object().unwrap() {
            if status.starts_with('2') {
                assert!(
                    call.contains(&format!("Answer {status}")),
                    "{path}: {status}"
                );
                continue;
            }
            // Beside the call, or with those of every call.
            for code in response["description"].as_str().unwrap().split("\n\n") {
                let code = code.trim_start_matches('`').split('`').next().unwrap();
                let link = format!("/docs#problem-{code}\"");
                let common = between(&page, "id=\"common-problems\"", "</section>");
                assert!(
                    call.contains(&link) || common.contains(&link),
                    "{path}: {code}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_the_reference_lead_somewhere_and_ids_are_unique() {
    let app = TestApp::start().await;
    let browser = app.browser();
    let page = browser.get("/docs/api").await.text;
    let docs = browser.get("/docs").await.text;
    let ids: Vec<_> = values(&page, " id=\"").collect();
    let unique: HashSet<_> = ids.iter().collect();
    assert_eq!(ids.len(), unique.len(), "{ids:?}");
    let mut links = 0;
    for target in values(&page, "href=\"#") {
        assert!(unique.contains(&target), "#{target}");
        links += 1;
    }
    assert!(links > 40, "{links}");
    for target in values(&page, "href=\"/docs#") {
        assert!(
            docs.contains(&format!(r#" id="{target}""#)),
            "/docs#{target}"
        );
    }
    for (text, page) in [(&docs, "/docs"), (&page, "/docs/api")] {
        assert!(
            text.contains(r#"href="/docs/api""#),
            "{page} leads to the reference"
        );
    }
    assert!(page.contains(r#"href="/openapi.json""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_is_a_page_like_the_others_signed_in_or_not() {
    let app = TestApp::start().await;
    let visitor = app.browser();
    let (reference, docs) = (visitor.get("/docs/api").await, visitor.get("/docs").await);
    assert!(
        reference
            .text
            .contains("<title>API reference · Lockable</title>")
    );
    assert!(reference.text.contains(r#"href="/login""#));
    let policy = |answer: &Answer| answer.required("content-security-policy").to_owned();
    assert_eq!(policy(&reference), policy(&docs));
    assert!(!policy(&reference).contains("unsafe"));
    // One style sheet and one script more would be seen here.
    let assets = |answer: &Answer| answer.text.matches("/assets/").count();
    assert_eq!(assets(&reference), assets(&docs));
    let owner = sign_up(&app, "ada@example.com").await;
    let page = owner.get("/docs/api").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("ada@example.com") && !page.text.contains(r#"href="/login""#));
}

/// Each is sent as it is shown. Nothing but the names, the ids and the state of the locks in it may
/// be wrong.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_requests_that_the_api_understands() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let (_, token) = account.token_with("public", Scope::Manage, None).await;
    let page = app.browser().get("/docs/api").await.text;
    let mut sent = 0;
    let mut granted = 0;
    for id in values(&page, "<code id=\"").filter(|id| id.ends_with("-request")) {
        let command = unescaped(&between(&page, &format!("<code id=\"{id}\">"), "</code>"));
        let curl = "curl -s -o /dev/null -w '%{http_code}' --max-time 5";
        let output = Command::new("sh")
            .args(["-c", &command.replacen("curl", curl, 1)])
            .env("LOCKABLE_AUTH_TOKEN", token.expose())
            .env("NO_PROXY", "*")
            .output()
            .await
            .unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        assert!(
            ["200", "201", "204", "403", "404", "409"].contains(&status.as_str()),
            "{status}: {command}"
        );
        sent += 1;
        granted += u32::from(status.starts_with('2'));
    }
    assert!(sent >= 10 && granted >= 5, "{sent} sent, {granted} granted");
}

//! The pages, over HTTP: every flow of visitors, owners and administrators, and bad input.

mod activity;
mod admin;
mod api_reference;
mod docs;
mod limits;
mod locks;
mod mail;
mod main_elements;
mod namespaces;
mod outage;
mod pages;
mod recovery;
mod security;
mod signing;
mod smtp;
mod tokens;

use std::path::PathBuf;

use crate::support::app::PASSWORD;
use crate::support::client::{Answer, Browser};
use crate::support::prelude::*;

/// Signs up with [`PASSWORD`], which must succeed.
async fn sign_up(app: &TestApp, email: &str) -> Browser {
    let browser = app.browser();
    let answer = browser
        .submit("/signup", &[("email", email), ("password", PASSWORD)])
        .await;
    assert_eq!(answer.location(), "/account");
    browser
}

/// Signs in, which must succeed.
async fn sign_in(app: &TestApp, email: &str, password: &str) -> Browser {
    let browser = app.browser();
    let answer = browser
        .submit("/login", &[("email", email), ("password", password)])
        .await;
    assert_eq!(answer.location(), "/account", "{answer:?}");
    browser
}

/// Whether the browser is signed in: it gets an account page and is not sent to the sign-in page.
async fn is_signed_in(browser: &Browser) -> bool {
    let answer = browser.get("/account").await;
    match answer.status.as_u16() {
        200 => true,
        303 => {
            assert!(answer.location().starts_with("/login"), "{answer:?}");
            false
        }
        _ => panic!("{answer:?}"),
    }
}

/// The value of a hidden field.
#[track_caller]
fn hidden(answer: &Answer, name: &str) -> String {
    between(&answer.text, &format!(r#"name="{name}" value=""#), "\"")
}

/// The text between two others.
#[track_caller]
fn between(text: &str, before: &str, after: &str) -> String {
    let (_, rest) = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before:?} in {text}"));
    rest.split_once(after)
        .unwrap_or_else(|| panic!("no {after:?} behind {before:?} in {text}"))
        .0
        .to_owned()
}

/// The problem of a rejected field. Checks that it is tied to its input, the summary and the title.
#[track_caller]
fn field_error(answer: &Answer, id: &str) -> String {
    assert_eq!(answer.status, 422, "{answer:?}");
    let error_id = format!("{id}-error");
    let input = between(&answer.text, &format!(r#" id="{id}""#), ">");
    assert!(input.contains(r#"aria-invalid="true""#), "{input}");
    assert!(
        between(&input, r#"aria-describedby=""#, "\"")
            .split(' ')
            .any(|part| part == error_id),
        "{input}"
    );
    assert!(
        answer.text.contains(&format!("href=\"#{id}\"")),
        "no summary that leads to {id}"
    );
    assert!(
        answer.text.contains("<title>Error: "),
        "the title says nothing of it"
    );
    between(&answer.text, &format!(r#"id="{error_id}">"#), "<")
}

/// The letters in the outbox, the oldest first.
fn outbox(app: &TestApp) -> Vec<(PathBuf, String)> {
    let Ok(folder) = std::fs::read_dir(app.data_dir.path().join("outbox")) else {
        return Vec::new();
    };
    let mut letters: Vec<_> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "eml"))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect();
    letters.sort();
    letters
}

/// The newest letter to an e-mail address with this in its subject, once it is there.
async fn letter_to(app: &TestApp, email: &str, subject: &str) -> String {
    eventually(&format!("a letter to {email}: {subject}"), async || {
        outbox(app)
            .into_iter()
            .rev()
            .map(|(_, text)| text)
            .find(|text| {
                text.contains(&format!("To: {email}\r\n"))
                    && between(text, "Subject: ", "\r\n").contains(subject)
            })
    })
    .await
}

/// The path of the link in a letter to one of our pages.
#[track_caller]
fn link_in(app: &TestApp, letter: &str, page: &str) -> String {
    let start = format!("{}{page}?link=", app.url());
    format!("{page}?link={}", between(letter, &start, "\r\n"))
}

/// The secret of such a link.
#[track_caller]
fn secret_of(link: &str) -> &str {
    link.split_once("?link=").unwrap().1
}

/// A request with the body of a form.
fn with_form(request: reqwest::RequestBuilder, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    request
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
}

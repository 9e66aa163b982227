//! The API reference in a browser: what it loads, with a keyboard, without script, on a phone.

use axum::http::Method;
use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use serde_json::{Value, json};
use url::Url;

use crate::browser::{Browser, Scheme, Script, browse};
use crate::keyboard::{press, tab_to};
use crate::steps::sign_in;
use crate::support::app::TestApp;

/// Reads and empties the console.
#[derive(Debug)]
struct Console;

impl WebDriverCompatibleCommand for Console {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(json!({ "type": "browser" }).to_string()))
    }
}

/// The warnings and errors on the console since the last call; refusals of the
/// Content-Security-Policy are among them.
async fn console(browser: &Browser) -> Vec<String> {
    let entries = browser.client.issue_cmd(Console).await.unwrap();
    let entries = entries.as_array().unwrap().iter();
    entries.map(|entry| entry["message"].to_string()).collect()
}

async fn script(browser: &Browser, script: &str) -> Value {
    browser.client.execute(script, vec![]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_has_no_errors_and_loads_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    browse(&app, Script::On, async |browser: &Browser| {
        script(browser, "console.error('it is read')").await;
        assert_eq!(console(browser).await.len(), 1, "the console is read");
        for is_signed_in in [false, true] {
            if is_signed_in {
                sign_in(browser, &account.email).await;
            }
            for scheme in [Scheme::Light, Scheme::Dark] {
                browser.scheme(scheme).await;
                browser.open("/docs/api").await;
                browser.find("#call-acquire").await;
                assert_eq!(console(browser).await, Vec::<String>::new());
                let loaded = script(
                    browser,
                    "return performance.getEntriesByType('resource').map((entry) => entry.name)",
                )
                .await;
                let loaded: Vec<String> = serde_json::from_value(loaded).unwrap();
                assert!(loaded.iter().any(|url| url.ends_with("lockable.css")));
                for url in loaded {
                    assert!(url.starts_with(&app.url()), "{url}");
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_reached_without_a_mouse() {
    let app = TestApp::start().await;
    browse(&app, Script::On, async |browser: &Browser| {
        browser.open("/docs/api").await;
        press(browser, Key::Tab).await;
        press(browser, Key::Enter).await;
        tab_to(browser, "Acquire", 20).await;
        press(browser, Key::Enter).await;
        let top = "return [location.hash,
            document.querySelector('#call-acquire').getBoundingClientRect().top]";
        let place = script(browser, top).await;
        assert_eq!(place[0], "#call-acquire");
        assert!(
            (0.0..200.0).contains(&place[1].as_f64().unwrap()),
            "{place}"
        );
        // The example scrolls sideways, and so can be reached; its button copies it.
        tab_to(browser, "Copy: Request: acquire", 12).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_is_whole_without_script_and_on_a_phone() {
    let app = TestApp::start().await;
    browse(&app, Script::Off, async |browser: &Browser| {
        browser.open("/docs/api").await;
        for scheme in [Scheme::Light, Scheme::Dark] {
            browser.scheme(scheme).await;
            for width in [390, 320] {
                browser.resize(width, 844).await;
                browser
                    .sees("/v2/namespaces/{namespace}/locks/{name}/acquire")
                    .await;
                // The page itself is not scrolled sideways. Its elements that are, are within it.
                let element = browser.find("html").await;
                let (_, _, page, _) = element.rectangle().await.unwrap();
                let metrics = browser.devtools("Page.getLayoutMetrics", json!({})).await;
                let content = metrics["cssContentSize"]["width"].as_f64().unwrap();
                assert!(
                    content <= f64::from(width) && page <= content,
                    "{content} of {width}"
                );
            }
        }
    })
    .await;
}

//! The pages without a mouse.

use fantoccini::key::Key;

use crate::browser::{Browser, Script, browse};
use crate::steps::sign_in;
use crate::support::app::{PASSWORD, TestApp};

/// Presses a key on the element that has the focus.
pub(crate) async fn press(browser: &Browser, key: Key) {
    type_text(browser, &String::from(char::from(key))).await;
}

async fn type_text(browser: &Browser, text: &str) {
    browser
        .client
        .active_element()
        .await
        .unwrap()
        .send_keys(text)
        .await
        .unwrap();
}

/// The name for screen readers, or the id, of the element that has the focus.
async fn focus(browser: &Browser) -> String {
    let script = "const e = document.activeElement;
        return e.id || e.getAttribute('aria-label') || e.textContent.trim();";
    browser
        .client
        .execute(script, vec![])
        .await
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

/// Tabs on until the element has the focus, past at most `most` others.
pub(crate) async fn tab_to(browser: &Browser, what: &str, most: usize) {
    let mut passed = Vec::new();
    while passed.len() <= most {
        press(browser, Key::Tab).await;
        let now = focus(browser).await;
        if now == what {
            return;
        }
        passed.push(now);
    }
    panic!("{what:?} is not reached: {passed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_up_and_the_first_token_need_no_mouse() {
    let app = TestApp::start().await;
    browse(&app, Script::On, async |browser: &Browser| {
        browser.open("/signup").await;
        press(browser, Key::Tab).await;
        assert_eq!(focus(browser).await, "Skip to the content");
        press(browser, Key::Enter).await;
        assert_eq!(focus(browser).await, "main");
        tab_to(browser, "email", 0).await;
        type_text(browser, "ada@example.com").await;
        tab_to(browser, "password", 0).await;
        type_text(browser, PASSWORD).await;
        press(browser, Key::Enter).await;
        browser.is_at("/account").await;
        tab_to(browser, "token-label", 16).await;
        type_text(browser, "laptop").await;
        tab_to(browser, "Create token", 6).await;
        press(browser, Key::Enter).await;
        browser.find("#token").await;
        tab_to(browser, "Copy: Your API token", 16).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_problems_of_a_form_come_first() {
    let app = TestApp::start().await;
    browse(&app, Script::On, async |browser: &Browser| {
        browser.open("/signup").await;
        browser.fill("#email", "nobody").await;
        browser.press("Create account").await;
        assert_eq!(focus(browser).await, "error-summary");
        press(browser, Key::Tab).await;
        press(browser, Key::Enter).await;
        assert_eq!(focus(browser).await, "email");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn breaking_a_lock_needs_no_mouse() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    assert!(
        app.token(&account.token().await)
            .acquire("job")
            .await
            .verdict()
    );
    browse(&app, Script::On, async |browser: &Browser| {
        sign_in(browser, &account.email).await;
        browser.open("/account/locks").await;
        tab_to(browser, "Break job", 14).await;
        press(browser, Key::Enter).await;
        browser.find("#break-reason").await;
        tab_to(browser, "break-reason", 14).await;
        type_text(browser, "it hangs").await;
        tab_to(browser, "Break lock", 0).await;
        press(browser, Key::Enter).await;
        browser.sees("job is broken: free").await;
    })
    .await;
}

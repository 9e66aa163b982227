//! Pages for everybody.

use crate::accessibility;
use crate::browser::{Browser, Script, browse};
use crate::support::app::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_none() {
    let app = TestApp::start().await;
    browse(&app, Script::On, async |browser: &Browser| {
        browser.open("/nothing/here").await;
        browser.sees("There is no such page").await;
        accessibility::check(browser, "not found").await;
    })
    .await;
}

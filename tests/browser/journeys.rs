//! Journeys through the product, from the front page to the end.

use lockable::secret::Secret;
use reqwest::StatusCode;
use serde_json::json;

use crate::browser::{Browser, Script, browse, browse_both};
use crate::steps::{create_token, link_in_mail, sign_in, sign_in_with, sign_out, sign_up};
use crate::support::app::{PASSWORD, TestApp};
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn from_signing_up_to_a_broken_lock() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        sign_up(browser, "ada@example.com").await;
        let token = create_token(browser, "laptop", "public").await;
        let program = app.token(&token);

        browser.open("/account/locks").await;
        browser.sees("Nothing is held").await;
        assert!(program.acquire("nightly%2Freport").await.verdict());
        if browser.script() == Script::Off {
            browser.open("/account/locks").await;
        }
        // With script, the open list shows it without a reload.
        browser.sees("nightly/report").await;
        browser.sees("laptop").await;
        browser.press("Break nightly/report").await;
        browser.press("Break lock").await;
        browser.sees("Give a reason").await;
        browser.fill("#break-reason", "the machine is gone").await;
        browser.press("Break lock").await;
        browser.is_at("/account/locks").await;
        browser.sees("nightly/report is broken: free").await;
        browser.sees("Nothing is held").await;
        assert!(!program.heartbeat("nightly%2Freport").await.verdict());
        assert!(program.acquire("nightly%2Freport").await.verdict());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_and_its_command_are_copied() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    browse(&app, Script::On, async |browser: &Browser| {
        let allowed = json!({
            "origin": app.url(),
            "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"],
        });
        browser.devtools("Browser.grantPermissions", allowed).await;
        sign_in(browser, &account.email).await;
        browser.fill("#token-label", "laptop").await;
        browser.press("Create token").await;
        for block in ["token", "try-acquire"] {
            let button = format!("[data-copy={block}]");
            browser.click(&button).await;
            eventually("it says that it was copied", async || {
                (browser.text_of(&button).await == "Copied").then_some(())
            })
            .await;
            let read = "navigator.clipboard.readText().then(arguments[0])";
            let copied = browser.client.execute_async(read, vec![]).await.unwrap();
            assert_eq!(copied, browser.text_of(&format!("#{block}")).await);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_lease_that_was_seen_is_broken() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let program = app.token(&account.token().await);
    browse(&app, Script::Off, async |browser: &Browser| {
        sign_in(browser, &account.email).await;
        assert!(program.acquire("job").await.verdict());
        browser.open("/account/locks").await;
        browser.press("Break job").await;
        // The holder releases it, and another run takes it.
        assert!(program.release("job").await.verdict());
        assert!(program.acquire("job").await.verdict());
        browser.fill("#break-reason", "it hangs").await;
        browser.press("Break lock").await;
        browser.sees("Nothing was broken").await;
        assert!(program.heartbeat("job").await.verdict());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        let email = "ada@example.com";
        sign_up(browser, email).await;
        browser
            .open_url(&link_in_mail(app, email, "/verify").await)
            .await;
        browser.press("Confirm address").await;
        sign_out(browser).await;

        browser.open("/login").await;
        browser.press("Forgot your password?").await;
        browser.fill("#email", "ADA@example.com").await;
        browser.press("Send the link").await;
        browser.sees("Look at your mail").await;
        let link = link_in_mail(app, email, "/reset").await;
        browser.open_url(&link).await;
        browser.fill("#password", "another good password").await;
        browser.press("Set the password").await;
        browser.is_at("/login").await;

        sign_in_with(browser, email, PASSWORD).await;
        browser.find("#error-summary").await;
        sign_in_with(browser, email, "another good password").await;
        browser.is_at("/account").await;
        browser.open_url(&link).await;
        browser.sees("does not work any more").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_rotated_and_revoked() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        let account = app.account_with_password("hobbyist").await;
        sign_in(browser, &account.email).await;
        let first = create_token(browser, "worker", "public").await;
        browser.press("Manage token worker").await;
        browser.click("input[name=keep_old][value='0']").await;
        browser.press("Rotate token").await;
        let second = Secret::new(browser.text_of("#token").await);
        assert!(app.token(&second).acquire("job").await.verdict());
        refused(app, &first).await;
        browser.press("I have copied it").await;
        browser.press("Manage token worker").await;
        browser.press("Revoke token").await;
        browser.sees("No tokens yet").await;
        refused(app, &second).await;
    })
    .await;
}

async fn refused(app: &TestApp, token: &Secret) {
    eventually("the token is refused", async || {
        let answer = app.token(token).heartbeat("job").await;
        (answer.status == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_seen_and_ended() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        let account = app.account_with_password("hobbyist").await;
        let elsewhere = app.browser();
        let fields = [("email", account.email.as_str()), ("password", PASSWORD)];
        elsewhere.submit_and_follow("/login", &fields).await;
        assert_eq!(elsewhere.get("/account").await.status, StatusCode::OK);
        sign_in(browser, &account.email).await;
        browser.open("/account/security").await;
        browser.sees("this one").await;
        browser.press("Sign out everywhere else").await;
        assert!(!browser.text().await.contains("Sign out everywhere else"));
        assert_eq!(
            elsewhere.get("/account").await.location(),
            "/login?next=%2Faccount"
        );

        elsewhere.submit_and_follow("/login", &fields).await;
        browser.open("/account/security").await;
        browser.fill("#password-current_password", PASSWORD).await;
        browser
            .fill("#password-new_password", "another good password")
            .await;
        browser.press("Change password").await;
        browser.find(".notice.ok").await;
        assert_eq!(
            elsewhere.get("/account").await.location(),
            "/login?next=%2Faccount"
        );
        sign_out(browser).await;
        browser.open("/account").await;
        browser.is_at("/login").await;
        sign_in_with(browser, &account.email, "another good password").await;
        browser.is_at("/account").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_deleted() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        sign_up(browser, "ada@example.com").await;
        let token = create_token(browser, "laptop", "public").await;
        assert!(app.token(&token).acquire("job").await.verdict());
        browser.press("Security").await;
        browser.press("Delete my account").await;
        browser.fill("#password", "not my password").await;
        browser.press("Delete my account for good").await;
        browser.sees("This is not your password").await;
        browser.fill("#password", PASSWORD).await;
        browser.press("Delete my account for good").await;
        browser.find("a[href='/signup']").await;
        refused(app, &token).await;
        let other = app.account("hobbyist").await;
        assert!(
            app.token(&other.token().await)
                .acquire("job")
                .await
                .verdict()
        );
        sign_in_with(browser, "ada@example.com", PASSWORD).await;
        browser.find("#error-summary").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_business_account_has_namespaces_and_leases_of_its_own() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        let account = app.account_with_password("business").await;
        sign_in(browser, &account.email).await;
        browser.fill("#lease-lease_ms", "90000").await;
        browser.press("Save").await;
        browser.sees("90 s (1 s to 24 h)").await;

        browser.press("Namespaces").await;
        browser.fill("#namespace-name", "public").await;
        browser.press("Create namespace").await;
        browser.sees("choose another name").await;
        browser.fill("#namespace-name", "billing").await;
        browser.fill("#namespace-lease_ms", "1").await;
        browser.press("Create namespace").await;
        browser
            .sees("The lease must be from 1000 to 86400000 ms")
            .await;
        browser.fill("#namespace-lease_ms", "300000").await;
        browser.press("Create namespace").await;
        browser.sees("The namespace billing is there").await;
        browser.sees("5 min").await;

        let token = create_token(browser, "invoices", "billing").await;
        let program = app.token(&token);
        let answer = program.acquire("run").await;
        assert!(answer.verdict());
        assert_eq!(answer.header("lockable-lease-ms"), Some("300000"));

        browser.open("/account/namespaces").await;
        browser.press("Manage namespace billing").await;
        browser.fill("#lease-lease_ms", "").await;
        browser.press_in("main", "Save").await;
        browser.sees("90 s").await;
        browser.press("Delete namespace").await;
        browser.sees("Locks are held here").await;
        browser.press("break them").await;
        browser.press("Break run").await;
        browser.fill("#break-reason", "clearing up").await;
        browser.press("Break lock").await;
        browser.open("/account/namespaces/billing").await;
        browser.sees("Its token goes with it").await;
        browser.press("Delete namespace").await;
        browser
            .sees("The namespace billing and its tokens are gone")
            .await;
        refused(app, &token).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hobbyist_is_shown_the_way_up() {
    let app = TestApp::start_with(|settings| {
        settings.upgrade_url = Some("https://example.com/upgrade".parse().unwrap());
    })
    .await;
    let account = app.account_with_password("hobbyist").await;
    browse(&app, Script::On, async |browser: &Browser| {
        sign_in(browser, &account.email).await;
        browser.press("Namespaces").await;
        let link = browser.find("main a[role=button]").await;
        assert_eq!(
            link.attr("href").await.unwrap().as_deref(),
            Some("https://example.com/upgrade")
        );
        assert!(!browser.has("form[action='/account/namespaces']").await);
    })
    .await;
}

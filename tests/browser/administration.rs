//! Administration in the browser.

use reqwest::StatusCode;

use crate::browser::{Browser, Script, browse, browse_both};
use crate::steps::{sign_in, sign_in_with, sign_out};
use crate::support::app::{PASSWORD, TestApp};
use crate::support::wait::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn accounts_change_plan_are_suspended_and_restored() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        let admin = app.administrator().await;
        let user = app.account_with_password("hobbyist").await;
        let token = user.token().await;
        sign_in(browser, &admin.email).await;
        browser.press("Administration").await;
        browser.fill("#q", "HOBBYIST-").await;
        browser.press("Search").await;
        browser.press(&format!("Manage {}", user.email)).await;
        browser.choose("#account-plan", "business").await;
        browser.press("Change plan").await;
        browser.sees("is on the plan business now").await;
        let account_page = browser.path().await;
        sign_out(browser).await;

        // The owner sees the features of the new plan.
        sign_in(browser, &user.email).await;
        browser.press("Namespaces").await;
        browser.find("#namespace-name").await;
        sign_out(browser).await;

        sign_in(browser, &admin.email).await;
        browser.open(&account_page).await;
        browser.press("Suspend account").await;
        browser.sees("Give a reason").await;
        browser.fill("#account-reason", "unpaid since May").await;
        browser.press("Suspend account").await;
        browser.sees("is suspended").await;
        eventually("the token is refused", async || {
            (app.token(&token).acquire("job").await.status == StatusCode::UNAUTHORIZED)
                .then_some(())
        })
        .await;
        sign_out(browser).await;
        sign_in_with(browser, &user.email, PASSWORD).await;
        browser.sees("unpaid since May").await;

        sign_in(browser, &admin.email).await;
        browser.open(&account_page).await;
        browser.press("Restore account").await;
        browser.sees("its tokens work again").await;
        eventually("the token works", async || {
            (app.token(&token).acquire("job").await.status == StatusCode::OK).then_some(())
        })
        .await;
        browser.press("Make administrator").await;
        browser.sees("Tick the box").await;
        browser.click("#account-sure").await;
        browser.press("Make administrator").await;
        browser.sees("is an administrator now").await;

        // The audit log has all of it, with the values before and after.
        for act in [
            "account.set-plan",
            "account.suspend",
            "account.restore",
            "account.promote",
            "unpaid since May",
        ] {
            browser.sees(act).await;
        }
        browser.press("Audit log").await;
        browser.fill("#q", "set-plan").await;
        browser.press("Search").await;
        let line = browser.text_of(".audit li").await;
        assert!(
            line.contains("hobbyist") && line.contains("business"),
            "{line}"
        );
        assert!(
            line.contains(&format!("by {} from 127.0.0.1, request ", admin.email)),
            "{line}"
        );
        assert!(!browser.text().await.contains("account.promote"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_created_and_edited() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        let admin = app.administrator().await;
        let user = app.account("hobbyist").await;
        let token = user.token().await;
        sign_in(browser, &admin.email).await;
        browser.open("/admin/plans").await;
        browser.press("New plan").await;
        browser.fill("#plan-name", "Team").await;
        browser.fill("#plan-code", "hobbyist").await;
        browser.fill("#plan-max_tokens", "some").await;
        browser.press("Create plan").await;
        browser.sees("API tokens: enter a whole number").await;
        browser.fill("#plan-max_tokens", "25").await;
        browser.press("Create plan").await;
        browser.sees("There is a plan `hobbyist` already").await;
        browser.fill("#plan-code", "team").await;
        browser.press("Create plan").await;
        browser.sees("The plan Team is there").await;

        browser.press("Edit plan Hobbyist").await;
        browser.sees("What this does to the accounts").await;
        browser.fill("#plan-lease_default_ms", "30,000").await;
        browser.fill("#plan-lease_min_ms", "30000").await;
        browser.fill("#plan-lease_max_ms", "30000").await;
        browser.press("Save plan").await;
        browser.sees("30 s, fixed").await;
        let mut number = 0;
        eventually("new leases have the new length", async || {
            number += 1;
            let answer = app.token(&token).acquire(&format!("job-{number}")).await;
            (answer.header("lockable-lease-ms") == Some("30000")).then_some(())
        })
        .await;
        browser.press("Audit log").await;
        browser.sees("plan.update").await;
        let line = browser.text_of(".audit li").await;
        assert!(
            line.contains("60,000") && line.contains("30,000") && !line.contains("max tokens"),
            "{line}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_the_public_namespace_is_broken() {
    browse_both(async |app: &TestApp, browser: &Browser| {
        let admin = app.administrator().await;
        let user = app.account("hobbyist").await;
        let program = app.token(&user.token().await);
        assert!(program.acquire("taken").await.verdict());
        sign_in(browser, &admin.email).await;
        browser.open("/admin/locks").await;
        browser.fill("#break-name", "free").await;
        browser
            .fill("#break-reason", "its owner asked for it")
            .await;
        browser.press("Break lock").await;
        browser.sees("Nobody holds a lock of this name").await;
        browser.fill("#break-name", "taken").await;
        browser.press("Break lock").await;
        browser.sees("The lock taken is broken: free").await;
        assert!(!program.heartbeat("taken").await.verdict());
        browser.press("Audit log").await;
        browser.sees("lock:public/taken").await;
        browser.sees("its owner asked for it").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_administration_for_others() {
    let app = TestApp::start().await;
    let user = app.account_with_password("business").await;
    browse(&app, Script::Off, async |browser: &Browser| {
        sign_in(browser, &user.email).await;
        assert!(!browser.text().await.contains("Administration"));
        for path in [
            "/admin/accounts",
            "/admin/accounts/1",
            "/admin/plans",
            "/admin/locks",
            "/admin/audit",
        ] {
            browser.open(path).await;
            browser.sees("There is no such page").await;
        }
    })
    .await;
}

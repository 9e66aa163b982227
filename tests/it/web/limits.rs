//! Limits of tries and changes: others cannot use up those of an owner.

use reqwest::Method;

use super::*;

/// Behind a proxy, so that the tests choose the client IP.
async fn behind_a_proxy() -> TestApp {
    TestApp::start_with(|settings| {
        settings.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await
}

/// Submits the sign-in form from a client IP, and returns the status.
async fn log_in(browser: &Browser, client_ip: &str, email: &str, password: &str) -> u16 {
    let request = browser
        .request(Method::POST, "/login")
        .header("x-forwarded-for", client_ip);
    let request = with_form(request, &[("email", email), ("password", password)]);
    browser.send(request).await.status.as_u16()
}

/// Tries wrong passwords from client IPs until the account's tries are used up for all of them.
async fn use_up_the_tries(app: &TestApp, email: &str) {
    for ip in 1..=7 {
        for _ in 0..11 {
            let client_ip = format!("198.51.100.{ip}");
            log_in(&app.browser(), &client_ip, email, "wrong password").await;
        }
    }
    let stranger = log_in(&app.browser(), "203.0.113.1", email, PASSWORD).await;
    assert_eq!(
        stranger, 429,
        "a browser that is not known, even with the password"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_not_kept_out_of_a_browser_that_signed_in_before() {
    let app = behind_a_proxy().await;
    let browser = app.browser();
    let email = "ada@example.com";
    let fields = [("email", email), ("password", PASSWORD)];
    browser.submit("/signup", &fields).await;
    browser.submit("/logout", &[]).await;
    use_up_the_tries(&app, email).await;
    assert_eq!(log_in(&browser, "203.0.113.1", email, PASSWORD).await, 303);

    // Its cookie is no password, has tries of its own, and no more than others had.
    browser.submit("/logout", &[]).await;
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(log_in(&browser, "203.0.113.2", email, "wrong password").await);
    }
    assert_eq!(statuses[0], 422);
    assert_eq!(statuses[11], 429);
    // It is one of this account, not of another.
    let other = app.account_with_password("hobbyist").await;
    use_up_the_tries(&app, &other.email).await;
    assert_eq!(
        log_in(&browser, "203.0.113.3", &other.email, PASSWORD).await,
        429
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_stays_known_when_its_owner_changes_the_password() {
    let app = behind_a_proxy().await;
    let browser = app.browser();
    let (email, new) = ("ada@example.com", "another long password");
    let fields = [("email", email), ("password", PASSWORD)];
    browser.submit("/signup", &fields).await;
    let old = app.browser();
    assert_eq!(log_in(&old, "203.0.113.9", email, PASSWORD).await, 303);
    let changed = browser
        .submit(
            "/account/password",
            &[("current_password", PASSWORD), ("new_password", new)],
        )
        .await;
    assert_eq!(changed.status, 303);
    browser.submit("/logout", &[]).await;
    use_up_the_tries(&app, email).await;
    assert_eq!(log_in(&browser, "203.0.113.1", email, new).await, 303);
    assert_eq!(
        log_in(&old, "203.0.113.2", email, new).await,
        429,
        "known by the old password only"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_limited_per_account_on_every_page() {
    let app = TestApp::start().await;
    let ada = sign_up(&app, "ada@example.com").await;
    let bob = sign_up(&app, "bob@example.com").await;
    // Another browser of the same account shares its limit.
    let second = sign_in(&app, "ada@example.com", PASSWORD).await;
    let mut refused = None;
    for number in 0..1000 {
        let browser = [&ada, &second][number % 2];
        let answer = browser
            .submit("/account/tokens/1/revoke", &[("token", "nonsense")])
            .await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    let refused = refused.expect("so many changes are too many");
    assert!(refused.header("retry-after").is_some());
    for path in [
        "/account/tokens",
        "/account/lease",
        "/account/namespaces",
        "/account/password",
        "/account/email",
        "/account/sessions/end-others",
        "/account/locks/break",
    ] {
        // The limit grows back by one a second, so one of these may come through.
        let statuses = [
            ada.submit(path, &[]).await.status,
            ada.submit(path, &[]).await.status,
        ];
        assert!(
            statuses.iter().any(|status| *status == 429),
            "{path}: {statuses:?}"
        );
    }
    assert_eq!(ada.get("/account").await.status, 200, "reading goes on");
    let answer = bob.submit("/account/tokens/1/revoke", &[]).await;
    assert_eq!(answer.status, 404, "another account has its own");
}

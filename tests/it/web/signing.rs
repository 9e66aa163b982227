//! Signing up, in and out.

use reqwest::Method;

use super::*;
use crate::support::client::send;

#[tokio::test(flavor = "multi_thread")]
async fn signing_up_leads_to_the_account_and_signing_out_ends_the_session() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "Ada@Example.com").await;
    let account = browser.get("/account").await;
    assert_eq!(account.status, 200);
    assert!(account.text.contains("Ada@Example.com"));

    let stolen = browser.cookies();
    assert_eq!(
        browser.submit("/logout", &[]).await.location(),
        "/login?done=signed-out"
    );
    assert!(
        !browser.cookies().contains("lockable="),
        "the session's cookie is taken back: {}",
        browser.cookies()
    );
    assert!(
        browser
            .get("/login?done=signed-out")
            .await
            .text
            .contains("You are signed out.")
    );
    // The cookie is useless to anybody who kept it.
    let late = app.browser();
    let answer = late
        .send(
            late.request(Method::GET, "/account")
                .header("cookie", stolen),
        )
        .await;
    assert_eq!(answer.location(), "/login?next=%2Faccount");
    // Signing out again is no error.
    assert_eq!(
        browser.submit("/logout", &[]).await.location(),
        "/login?done=signed-out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_works_in_any_case_and_goes_on_to_the_requested_page() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let browser = app.browser();
    let redirected = browser.get("/account/security").await;
    assert_eq!(redirected.location(), "/login?next=%2Faccount%2Fsecurity");
    let form = browser.get(redirected.location()).await;
    let next = hidden(&form, "next");
    let fields = [
        ("email", account.email.to_uppercase()),
        ("password", PASSWORD.to_owned()),
        ("next", next),
    ];
    let fields = fields
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    assert_eq!(
        browser.submit("/login", &fields).await.location(),
        "/account/security"
    );
    assert!(is_signed_in(&browser).await);
    // Signing in never leads to another site.
    for next in ["https://evil.example", "//evil.example", "/\\evil.example"] {
        let fields = [
            ("email", account.email.as_str()),
            ("password", PASSWORD),
            ("next", next),
        ];
        assert_eq!(
            app.browser().submit("/login", &fields).await.location(),
            "/account"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_says_the_same_whether_there_is_an_account() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let without_password = app.account("hobbyist").await;
    let mut answers = Vec::new();
    for email in [
        account.email.as_str(),
        without_password.email.as_str(),
        "nobody@example.com",
    ] {
        let answer = app
            .browser()
            .submit(
                "/login",
                &[("email", email), ("password", "not the password")],
            )
            .await;
        assert_eq!(
            field_error(&answer, "email"),
            "This address and password do not belong together. Check both."
        );
        assert!(
            answer.text.contains(&format!(r#"value="{email}""#)),
            "what was typed comes back"
        );
        assert!(
            !answer.text.contains("not the password"),
            "the password does not"
        );
        answers.push(answer.text.replace(email, "EMAIL"));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_sign_up_form_keeps_its_values() {
    let app = TestApp::start().await;
    let browser = app.browser();
    let submit = async |email: &str, password: &str| {
        browser
            .submit("/signup", &[("email", email), ("password", password)])
            .await
    };
    let answer = submit("ada", PASSWORD).await;
    assert_eq!(
        field_error(&answer, "email"),
        "Enter an e-mail address, such as name@example.com."
    );
    assert!(answer.text.contains(r#"value="ada""#) && !answer.text.contains(PASSWORD));
    for (password, problem) in [
        ("short", "at least 10 characters"),
        ("", "at least 10 characters"),
        ("ada@example.com", "not your e-mail"),
        (&"x".repeat(1025), "at most 1024 bytes"),
    ] {
        let answer = submit("ada@example.com", password).await;
        assert!(
            field_error(&answer, "password").contains(problem),
            "{password}"
        );
        assert!(answer.text.contains(r#"value="ada@example.com""#));
    }
    for hostile in [
        "a\0b@example.com",
        "\"><script>alert(1)</script>@example.com",
        "a@b\r\nBcc: c@example.com",
        "a@ä\u{202e}",
    ] {
        let answer = submit(hostile, PASSWORD).await;
        assert!(
            answer.status == 422 || answer.status == 303,
            "{hostile:?}: {answer:?}"
        );
        assert!(!answer.text.contains("<script>alert"));
    }
    // A missing field counts as an empty one.
    assert_eq!(browser.submit("/signup", &[]).await.status, 422);
    assert_eq!(browser.submit("/login", &[]).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sign_ups_with_one_email_address_one_wins_even_if_case_differs() {
    let app = TestApp::start().await;
    let one = app.browser();
    let other = app.browser();
    let (one, other) = tokio::join!(
        one.submit(
            "/signup",
            &[
                ("email", "ada@example.com"),
                ("password", "the first password")
            ]
        ),
        other.submit(
            "/signup",
            &[
                ("email", "ADA@example.com"),
                ("password", "the second password")
            ]
        ),
    );
    let (won, lost) = if one.status == 303 {
        (one, other)
    } else {
        (other, one)
    };
    assert_eq!(won.location(), "/account");
    assert!(field_error(&lost, "email").contains("There is an account with this address"));
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM accounts").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_form_sent_twice_is_one_account_and_a_sign_in() {
    let app = TestApp::start().await;
    let fields = [("email", "ada@example.com"), ("password", PASSWORD)];
    let browser = app.browser();
    assert_eq!(
        browser.submit("/signup", &fields).await.location(),
        "/account"
    );
    assert_eq!(
        browser.submit("/signup", &fields).await.location(),
        "/account"
    );
    assert!(is_signed_in(&browser).await);
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM accounts").await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_id_changes_at_sign_in_and_is_stored_hashed() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let fields = [("email", account.email.as_str()), ("password", PASSWORD)];
    let browser = app.browser();
    // A session id that somebody else put into the browser is not used.
    let planted = "lockable=AAAAAAAAAAAAAAAAAAAAAA";
    let request = with_form(
        browser
            .request(Method::POST, "/login")
            .header("cookie", planted),
        &fields,
    );
    let answer = send(request).await;
    let cookie = answer.cookie("lockable").to_owned();
    assert!(!cookie.contains("AAAAAAAAAAAAAAAAAAAAAA"), "{cookie}");
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(
        !cookie.contains("Secure") && !cookie.contains("__Host-"),
        "this service is reached by plain HTTP: {cookie}"
    );

    browser.submit("/login", &fields).await;
    let first = browser.cookies();
    browser.submit("/login", &fields).await;
    let second = browser.cookies();
    assert_ne!(first, second);
    let late = app.browser();
    let answer = late
        .send(
            late.request(Method::GET, "/account")
                .header("cookie", first),
        )
        .await;
    assert_eq!(
        answer.status, 303,
        "the old id ended when the new one began"
    );

    let id = between(&second, "lockable=", ";");
    let hashed = format!("SELECT count(*) FROM sessions WHERE session_sha256 = sha256('{id}')");
    assert_eq!(app.db.value::<i64>(&hashed).await, 1);
    let plain = format!("SELECT count(*) FROM sessions WHERE sessions::text LIKE '%{id}%'");
    assert_eq!(app.db.value::<i64>(&plain).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_cookie_is_bound_to_the_host_even_when_it_is_removed() {
    let app = TestApp::start_with(|settings| {
        settings.public_url = Some("https://locks.example.com".parse().unwrap());
    })
    .await;
    let browser = app.browser();
    let fields = [("email", "ada@example.com"), ("password", PASSWORD)];
    // A proxy in front ends TLS; the browser names the public URL as its origin.
    let request = browser
        .request(Method::POST, "/signup")
        .header("origin", "https://locks.example.com");
    let request = with_form(request, &fields);
    let answer = browser.send(request).await;
    let cookie = answer.cookie("__Host-lockable");
    assert!(
        cookie.starts_with("__Host-lockable=") && cookie.contains("; Secure"),
        "{cookie}"
    );
    assert!(!cookie.contains("Domain"), "{cookie}");
    let request = browser
        .request(Method::POST, "/logout")
        .header("origin", "https://locks.example.com");
    let answer = browser.send(request).await;
    let cookie = answer.cookie("__Host-lockable");
    assert!(
        cookie.starts_with("__Host-lockable=;") && cookie.contains("; Secure"),
        "{cookie}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_idle_and_at_its_longest() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    app.db
        .execute("UPDATE sessions SET last_seen_at = last_seen_at - interval '2 min'")
        .await;
    assert!(is_signed_in(&browser).await);
    assert!(
        app.db
            .value::<bool>(
                "SELECT last_seen_at > clock_timestamp() - interval '1 min' FROM sessions"
            )
            .await
    );
    // A session that is in use still ends thirty days after it began.
    app.db
        .execute(
            "UPDATE sessions SET created_at = clock_timestamp() - interval '29 days 23 h',
             last_seen_at = clock_timestamp() - interval '2 min'",
        )
        .await;
    assert!(is_signed_in(&browser).await);
    assert!(
        app.db
            .value::<bool>("SELECT expires_at < clock_timestamp() + interval '2 h' FROM sessions")
            .await
    );
    app.db
        .execute("UPDATE sessions SET expires_at = clock_timestamp()")
        .await;
    assert!(!is_signed_in(&browser).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_and_up_is_throttled_behind_a_trusted_proxy_too() {
    let app = TestApp::start_with(|settings| {
        settings.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let account = app.account_with_password("hobbyist").await;
    let from = async |address: &str, path: &str, email: &str, password: &str| {
        let browser = app.browser();
        let request = browser
            .request(Method::POST, path)
            .header("x-forwarded-for", address);
        browser
            .send(with_form(
                request,
                &[("email", email), ("password", password)],
            ))
            .await
    };
    // A malformed e-mail address counts as well, and takes no time to hash.
    let mut refused = None;
    for _ in 0..100 {
        let answer = from("192.0.2.1", "/login", "nobody", "x").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, 422);
    }
    let refused = refused.expect("so many tries are too many");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(refused.text.contains("Too many tries"));
    // Another client IP still has its tries.
    assert_eq!(
        from("192.0.2.2", "/login", &account.email, PASSWORD)
            .await
            .status,
        303
    );
    let mut statuses = Vec::new();
    for number in 0..60 {
        statuses.push(
            from(
                "192.0.2.3",
                "/signup",
                &format!("n{number}@example.com"),
                "short",
            )
            .await
            .status
            .as_u16(),
        );
    }
    assert_eq!(statuses[0], 422);
    assert_eq!(statuses[59], 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_is_signed_out_and_reads_why_after_its_password() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let admin = app.administrator().await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let actor = lockable::audit::Actor {
        account_id: Some(admin.id),
        ..lockable::audit::Actor::command("test")
    };
    lockable::accounts::suspend(&app.app.db, &actor, account.id, "it spams")
        .await
        .unwrap();
    assert!(!is_signed_in(&browser).await, "its sessions have ended");
    let fields = |password| [("email", account.email.as_str()), ("password", password)];
    let answer = app.browser().submit("/login", &fields(PASSWORD)).await;
    assert_eq!(answer.status, 403);
    assert!(
        answer.text.contains("suspended: it spams"),
        "{}",
        answer.text
    );
    let answer = app
        .browser()
        .submit("/login", &fields("not the password"))
        .await;
    assert!(
        !answer.text.contains("suspended"),
        "only its owner learns of it"
    );
}

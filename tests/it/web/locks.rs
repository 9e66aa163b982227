//! Live locks in the browser.

use super::*;

const ODD: &str = "<b>&\"'%2F ü/x";

fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_each_lock_once_and_in_order() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    let program = app.token(&account.private("billing").await);
    let public = app.token(&account.token().await);
    for number in 0..60 {
        assert!(program.acquire(&format!("job-{number:03}")).await.verdict());
        assert!(public.acquire(&format!("job-{number:03}")).await.verdict());
    }
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let mut seen = Vec::new();
    let mut next = Some("/account/locks".to_owned());
    while let Some(path) = next {
        let page = browser.get(&path).await;
        assert_eq!(page.status, 200);
        seen.extend(
            page.text
                .split(r#"<a href="/account/locks/break?"#)
                .skip(1)
                .map(|rest| {
                    let link = rest.split('"').next().unwrap().replace("&#38;", "&");
                    link.rsplit_once('&').unwrap().0.to_owned()
                }),
        );
        next = page
            .text
            .split(r#"href="/account/locks?after"#)
            .nth(1)
            .map(|rest| {
                format!(
                    "/account/locks?after{}",
                    rest.split('"').next().unwrap().replace("&#38;", "&")
                )
            });
        assert!(seen.len() <= 120, "the pages end");
    }
    let expected: Vec<_> = ["billing", "public"]
        .iter()
        .flat_map(|namespace| {
            (0..60).map(move |number| format!("namespace={namespace}&name=job-{number:03}"))
        })
        .collect();
    assert_eq!(seen, expected);
    let filtered = browser.get("/account/locks?namespace=public").await.text;
    assert!(
        filtered.contains("/account/locks?namespace=public&#38;after_namespace=public"),
        "{filtered}"
    );
    assert!(!filtered.contains("namespace=billing&#38;name"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_odd_name_is_text_and_can_be_broken() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let program = app.token(&account.token().await);
    assert!(program.acquire(&encoded(ODD)).await.verdict());
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let page = browser.get("/account/locks").await.text;
    assert!(!page.contains("<b>"), "{page}");
    let link = between(&page, r#"<a href="/account/locks/break?"#, "\"").replace("&#38;", "&");
    let form = browser.get(&format!("/account/locks/break?{link}")).await;
    assert!(!form.text.contains("<b>"));
    let token = hidden(&form, "fencing_token");
    let fields = |reason| {
        [
            ("namespace", "public"),
            ("name", ODD),
            ("fencing_token", token.as_str()),
            ("reason", reason),
        ]
    };
    let long = "x".repeat(501);
    for reason in ["", "  ", "a\0b", &long] {
        field_error(
            &browser
                .submit("/account/locks/break", &fields(reason))
                .await,
            "break-reason",
        );
    }
    let answer = browser
        .submit("/account/locks/break", &fields("tidy <up>"))
        .await;
    assert_eq!(answer.location(), "/account/locks");
    assert!(!program.heartbeat(&encoded(ODD)).await.verdict());
    // The audit log has actor, subject, reason, request and client IP.
    let (actor, request, address, reason): (String, String, String, String) = sqlx::query_as(
        "SELECT actor, request_id, host(address), reason
               FROM audit_log WHERE action = 'lock.break'",
    )
    .fetch_one(&app.db.pool)
    .await
    .unwrap();
    assert_eq!(
        (actor.as_str(), address.as_str(), reason.as_str()),
        (account.email.as_str(), "127.0.0.1", "tidy <up>")
    );
    assert_eq!(Some(request.as_str()), answer.header("x-request-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_lock_is_neither_seen_nor_broken() {
    let app = TestApp::start().await;
    let holder = app.account("business").await;
    let (public, private) = (
        app.token(&holder.token().await),
        app.token(&holder.private("mine").await),
    );
    assert!(public.acquire("theirs").await.verdict() && private.acquire("theirs").await.verdict());
    let other = app.account_with_password("business").await;
    let browser = sign_in(&app, &other.email, PASSWORD).await;
    assert!(!browser.get("/account/locks").await.text.contains("theirs"));
    for number in 1..=2 {
        let number = number.to_string();
        let fields = [
            ("namespace", "public"),
            ("name", "theirs"),
            ("fencing_token", &number),
            ("reason", "envy"),
        ];
        browser
            .submit("/account/locks/break", &fields)
            .await
            .location();
        let fields = [
            ("namespace", "mine"),
            ("name", "theirs"),
            ("fencing_token", &number),
            ("reason", "envy"),
        ];
        assert_eq!(
            browser.submit("/account/locks/break", &fields).await.status,
            404
        );
    }
    assert!(
        public.heartbeat("theirs").await.verdict() && private.heartbeat("theirs").await.verdict()
    );
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM audit_log").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_no_page_sends_change_nothing() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    for query in [
        "?namespace=%00",
        "?namespace=nothing",
        "?after_namespace=%00&after_name=x",
        "?after_namespace=x&after_name=%00",
        "?namespace=%ff&after_name=%ff",
        "/break",
        "/break?namespace=public&name=x&fencing_token=x",
        "/break?namespace=public&name=%00&fencing_token=1",
        "/break?namespace=nothing&name=x&fencing_token=1",
        "/break?namespace=public&name=x&fencing_token=99999999999999999999",
    ] {
        let status = browser.get(&format!("/account/locks{query}")).await.status;
        assert!(
            status.is_client_error() || status == 200,
            "{query}: {status}"
        );
    }
    let answer = browser
        .submit("/account/locks/break", &[("reason", "x")])
        .await;
    assert_eq!(answer.status, 400);
}

//! Rules for every page: headers, forgery, errors, assets.

use lockable::api::problem::Code;
use reqwest::Method;

use super::*;
use crate::support::client::send;

#[tokio::test(flavor = "multi_thread")]
async fn every_page_has_security_headers_and_accessible_markup() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let (token_id, _) = account
        .token_with("public", lockable::tokens::Scope::Locks, None)
        .await;
    let token_page = format!("/account/tokens/{token_id}");
    let visitor = app.browser();
    let pages = [
        (&visitor, "/"),
        (&visitor, "/docs"),
        (&visitor, "/docs/api"),
        (&visitor, "/signup"),
        (&visitor, "/login"),
        (&visitor, "/forgot"),
        (&visitor, "/reset?link=x"),
        (&visitor, "/nowhere"),
        (&browser, "/account"),
        (&browser, "/account/security"),
        (&browser, "/account/delete"),
        (&browser, &token_page),
    ];
    for (browser, path) in pages {
        let page = browser.get(path).await;
        let policy = page
            .header("content-security-policy")
            .unwrap_or_else(|| panic!("{path}"));
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-content-type-options", "nosniff"),
            (
                "referrer-policy",
                if path.contains("link=") {
                    "strict-origin"
                } else {
                    "same-origin"
                },
            ),
            ("cache-control", "no-store"),
            ("content-type", "text/html; charset=utf-8"),
        ] {
            assert_eq!(page.header(name), Some(value), "{path}");
        }
        let html = &page.text;
        assert_eq!(html.matches("<h1").count(), 1, "{path}");
        assert_eq!(html.matches("<main").count(), 1, "{path}");
        assert!(
            html.contains(r#"<html lang="en">"#) && html.contains(" · Lockable</title>"),
            "{path}"
        );
        for inline in [
            "<script>",
            "<style",
            " style=",
            " onclick=",
            " onsubmit=",
            "javascript:",
        ] {
            assert!(!html.contains(inline), "{path}: {inline}");
        }
        // Every input has its label.
        for input in html
            .split("<input ")
            .skip(1)
            .map(|rest| rest.split('>').next().unwrap())
        {
            let hidden = input.contains(r#"type="hidden""#) || input.contains(" hidden");
            if !hidden && !input.contains(r#"type="radio""#) {
                let id = between(input, "id=\"", "\"");
                assert!(
                    html.contains(&format!(r#"<label for="{id}">"#)),
                    "{path}: {input}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_another_site_does_nothing() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    let forged = [
        [
            ("sec-fetch-site", "cross-site"),
            ("origin", "https://evil.example"),
        ],
        [
            ("sec-fetch-site", "same-site"),
            ("origin", "http://sub.127.0.0.1"),
        ],
        [("origin", "https://evil.example"), ("accept", "*/*")],
        [("origin", "null"), ("accept", "*/*")],
    ];
    for headers in forged {
        for path in [
            "/logout",
            "/account/sessions/end-others",
            "/account/tokens",
            "/account/delete",
            "/login",
        ] {
            let mut request = with_form(
                browser.request(Method::POST, path),
                &[("label", "forged"), ("password", PASSWORD)],
            );
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let answer = browser.send(request).await;
            assert_eq!(answer.status, 403, "{path} {headers:?}");
            assert!(answer.text.contains("came from another site"));
        }
    }
    assert!(is_signed_in(&browser).await);
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM api_tokens").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_pages_that_say_what_to_do() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    let nowhere = browser.get("/account/nowhere").await;
    assert_eq!(nowhere.status, 404);
    assert!(nowhere.text.contains("There is no such page"));
    let wrong_method = browser
        .send(browser.request(Method::DELETE, "/account"))
        .await;
    assert_eq!(wrong_method.status, 405);
    assert!(wrong_method.header("allow").unwrap().contains("GET"));
    assert!(wrong_method.text.contains("<h1>"));
    assert_eq!(
        browser.get("/logout").await.status,
        405,
        "a link never signs anybody out"
    );
    let huge = "x".repeat(100_000);
    let answer = browser.submit("/account/tokens", &[("label", &huge)]).await;
    assert_eq!(answer.status, 413);
    assert!(answer.text.contains("too much to send"));
    let json = browser
        .request(Method::POST, "/login")
        .header("content-type", "application/json")
        .body("{}");
    assert_eq!(browser.send(json).await.status, 400);
    let latin = browser
        .request(Method::POST, "/login")
        .header("content-type", "application/x-www-form-urlencoded");
    let answer = browser
        .send(latin.body(b"email=%ff%00&password=%ff&next=%ff&x[]=1&email=2".to_vec()))
        .await;
    assert!(answer.status.is_client_error(), "{answer:?}");
    for query in [
        "/login?next=%00&done=%ff",
        "/verify?link=%00%ff",
        "/verify",
        "/forgot?done=x",
        "/login?done=no-such",
    ] {
        let status = browser.get(query).await.status;
        assert!(!status.is_server_error(), "{query}: {status}");
    }
    // To an account that is no administrator this page does not exist.
    assert_eq!(browser.get("/admin/accounts").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn assets_are_served_and_may_be_cached_for_good() {
    let app = TestApp::start().await;
    let visitor = app.anonymous();
    let page = visitor.get("/").await;
    let mut loaded = 0;
    for attribute in ["href=\"", "src=\""] {
        for url in page
            .text
            .split(attribute)
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
        {
            assert!(
                url.starts_with(['/', '#']),
                "nothing comes from elsewhere: {url}"
            );
            if url.starts_with("/assets/") {
                let asset = visitor.get(url).await;
                assert_eq!(asset.status, 200, "{url}");
                assert_eq!(
                    asset.header("cache-control"),
                    Some("public, max-age=31536000, immutable"),
                    "{url}"
                );
                loaded += 1;
            }
        }
    }
    assert_eq!(loaded, 4);
    let older = visitor.get("/assets/0123456789abcdef/lockable.css").await;
    assert_eq!(
        (older.status.as_u16(), older.header("cache-control")),
        (200, Some("no-cache"))
    );
    assert_eq!(
        visitor
            .get("/assets/0123456789abcdef/nothing.css")
            .await
            .status,
        404
    );
    assert_eq!(visitor.get("/favicon.ico").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docs_have_this_services_url_and_every_error_of_the_api() {
    let app = TestApp::start_with(|settings| {
        settings.public_url = Some("https://locks.example.com".parse().unwrap());
    })
    .await;
    let docs = app.anonymous().get("/docs").await.text;
    assert!(docs.contains("https://locks.example.com/v1/acquire/my-first-lock"));
    assert!(
        docs.contains("LOCKABLE_DOMAIN = &#34;locks.example.com&#34;"),
        "the public client gets its host"
    );
    assert!(!docs.contains("{url}") && !docs.contains("{host}"));
    for code in Code::ALL {
        assert!(
            docs.contains(&format!(r#"id="problem-{}""#, code.as_str())),
            "{}",
            code.as_str()
        );
    }
    // Every link within the page leads somewhere.
    for target in docs
        .split("href=\"#")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
    {
        assert!(docs.contains(&format!(r#" id="{target}""#)), "#{target}");
    }
    assert!(docs.contains("1,000,000"), "the plans' limits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_for_signed_in_people_and_a_post_without_a_session_changes_nothing() {
    let app = TestApp::start().await;
    for path in [
        "/account",
        "/account/security",
        "/account/delete",
        "/account/tokens/1",
        "/account/namespaces",
        "/account/locks",
    ] {
        let answer = app.browser().get(path).await;
        assert!(answer.location().starts_with("/login?next="), "{path}");
    }
    for path in [
        "/account/tokens",
        "/account/tokens/1/revoke",
        "/account/password",
        "/account/email",
        "/account/delete",
        "/account/lease",
    ] {
        let answer = app.browser().submit(path, &[("password", PASSWORD)]).await;
        assert_eq!(answer.location(), "/login", "{path}");
    }
    let garbage = app.browser();
    for cookie in [
        "lockable=",
        "lockable=x",
        "lockable=AAAAAAAAAAAAAAAAAAAAAA",
        "lockable=\u{fc}",
        "lockable=%00",
    ] {
        let request = garbage
            .request(Method::GET, "/account")
            .header("cookie", cookie.as_bytes());
        let answer = send(request).await;
        assert!(
            matches!(answer.status.as_u16(), 303 | 400),
            "{cookie:?}: {answer:?}"
        );
    }
}

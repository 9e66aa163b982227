//! Pages while the database is unavailable.

use std::sync::Arc;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_unavailable_database_is_a_page_with_retry_after_and_the_session_outlives_it() {
    let db = Arc::new(Database::create().await);
    let proxy = Proxy::to(&db).await;
    let app = TestApp::start_through(&db, &proxy).await;
    let browser = sign_up(&app, "ada@example.com").await;
    let cookies = browser.cookies();
    proxy.sever();
    let fields = [("email", "ada@example.com"), ("password", PASSWORD)];
    let answers = [
        browser.get("/account").await,
        browser.get("/account/security").await,
        browser.get("/account/namespaces").await,
        browser.get("/account/locks").await,
        browser.get("/admin/accounts").await,
        browser.submit("/account/tokens", &[("label", "x")]).await,
        browser.submit("/logout", &[]).await,
        app.browser().submit("/login", &fields).await,
        app.browser().submit("/signup", &fields).await,
        app.browser().submit("/forgot", &fields).await,
        app.browser().get("/verify?link=x").await,
    ];
    for answer in answers {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some());
        assert!(answer.text.contains("The database is away"));
        assert!(
            answer.text.contains(answer.header("x-request-id").unwrap()),
            "the request's id is on the page"
        );
    }
    // Pages that need no database are shown.
    for path in ["/", "/docs", "/docs/api", "/login", "/signup"] {
        assert_eq!(app.browser().get(path).await.status, 200, "{path}");
    }
    proxy.mend();
    eventually("the database is back", async || {
        (browser.get("/account").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(browser.cookies(), cookies, "still signed in");
}

//! Private namespaces in the browser, and bad input.

use super::*;

fn count(app: &TestApp) -> impl Future<Output = i64> {
    app.db
        .value::<i64>("SELECT count(*) FROM namespaces WHERE account_id IS NOT NULL")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hobbyist_reads_what_namespaces_are_and_where_to_get_them() {
    let app = TestApp::start_with(|settings| {
        settings.upgrade_url = Some(
            "https://example.com/upgrade?from=lockable&x=1"
                .parse()
                .unwrap(),
        );
    })
    .await;
    let browser = sign_up(&app, "ada@example.com").await;
    for answer in [
        browser.get("/account/namespaces").await,
        browser
            .submit("/account/namespaces", &[("name", "mine")])
            .await,
    ] {
        assert_eq!(answer.status, 403);
        let link = between(&answer.text, r#"<a role="button" href=""#, "\"");
        assert!(
            link.starts_with("https://example.com/upgrade?from=lockable&"),
            "{link}"
        );
    }
    assert_eq!(count(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_names_and_leases_are_rejected_and_the_form_keeps_its_values() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let long = "a".repeat(64);
    for name in ["", "Billing", "a b", "a\0", "ä", "a/b", "public", &long] {
        let answer = browser
            .submit(
                "/account/namespaces",
                &[("name", name), ("lease_ms", "5000")],
            )
            .await;
        field_error(&answer, "namespace-name");
        assert!(
            answer.text.contains(r#"value="5000""#),
            "the form keeps its values"
        );
    }
    for lease in [
        "1",
        "999",
        "86400001",
        "-5",
        "1e3",
        "60s",
        "99999999999999999999",
        "\0",
    ] {
        let answer = browser
            .submit(
                "/account/namespaces",
                &[("name", "fine"), ("lease_ms", lease)],
            )
            .await;
        field_error(&answer, "namespace-lease_ms");
    }
    let both = browser
        .submit("/account/namespaces", &[("name", "A"), ("lease_ms", "1")])
        .await;
    field_error(&both, "namespace-name");
    field_error(&both, "namespace-lease_ms");
    assert_eq!(count(&app).await, 0);
    let answer = browser
        .submit(
            "/account/namespaces",
            &[("name", " fine "), ("lease_ms", "1,500")],
        )
        .await;
    assert_eq!(answer.location(), "/account/namespaces");
    let answer = browser
        .submit("/account/namespaces/fine/lease", &[("lease_ms", "1")])
        .await;
    field_error(&answer, "lease-lease_ms");
    assert_eq!(
        app.db
            .value::<i32>("SELECT lease_default_ms FROM namespaces WHERE name = 'fine'")
            .await,
        1500
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_creations_at_the_limit_one_succeeds() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    app.db
        .execute("UPDATE plans SET max_private_namespaces = 1 WHERE code = 'business'")
        .await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let (one, other) = tokio::join!(
        browser.submit("/account/namespaces", &[("name", "one")]),
        browser.submit("/account/namespaces", &[("name", "other")]),
    );
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [303, 422]);
    assert_eq!(count(&app).await, 1);
    let page = browser.get("/account/namespaces").await.text;
    assert!(
        page.contains("all in use") && !page.contains("no new locks"),
        "{page}"
    );
    app.db
        .execute("UPDATE plans SET max_private_namespaces = 2 WHERE code = 'business'")
        .await;
    browser
        .submit("/account/namespaces", &[("name", "a-newer-one")])
        .await
        .location();
    app.db
        .execute("UPDATE plans SET max_private_namespaces = 1 WHERE code = 'business'")
        .await;
    // The order of names does not decide which one is over the limit.
    let page = browser.get("/account/namespaces").await.text;
    assert!(
        between(&page, "a-newer-one", "</tr>").contains("no new locks"),
        "{page}"
    );
    assert_eq!(page.matches("no new locks</span>").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_accounts_namespace_is_not_there() {
    let app = TestApp::start().await;
    let owner = app.account("business").await;
    owner.namespace("secret").await;
    let other = app.account_with_password("business").await;
    let browser = sign_in(&app, &other.email, PASSWORD).await;
    for name in ["secret", "public", "nothing", "%00"] {
        assert_eq!(
            browser
                .get(&format!("/account/namespaces/{name}"))
                .await
                .status,
            404,
            "{name}"
        );
        for act in ["lease", "delete"] {
            let answer = browser
                .submit(&format!("/account/namespaces/{name}/{act}"), &[])
                .await;
            assert_eq!(answer.status, 404, "{name} {act}");
        }
    }
    assert!(
        !browser
            .get("/account/namespaces")
            .await
            .text
            .contains("secret")
    );
    assert_eq!(
        browser.get("/account/locks?namespace=secret").await.status,
        404
    );
    assert_eq!(count(&app).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_beyond_a_smaller_plan_are_marked_kept_and_may_be_deleted() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    let token = account.private("mine").await;
    assert!(app.token(&token).acquire("job").await.verdict());
    let admin = app.administrator().await;
    let actor = lockable::audit::Actor {
        account_id: Some(admin.id),
        ..lockable::audit::Actor::command("test")
    };
    lockable::accounts::set_plan(&app.app.db, &actor, account.id, "hobbyist")
        .await
        .unwrap();
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let answer = browser.get("/account/namespaces").await;
    assert_eq!(answer.status, 200);
    assert!(answer.text.contains("More namespaces than your plan has"));
    assert!(!answer.text.contains("Create a namespace"));
    let lease = [("lease_ms", "5000")];
    assert_eq!(
        browser
            .submit("/account/namespaces/mine/lease", &lease)
            .await
            .status,
        403
    );
    let in_use = browser.submit("/account/namespaces/mine/delete", &[]).await;
    assert_eq!(in_use.status, 409);
    assert!(in_use.text.contains("Locks are held here"));
    assert!(app.token(&token).release("job").await.verdict());
    assert_eq!(
        browser
            .submit("/account/namespaces/mine/delete", &[])
            .await
            .location(),
        "/account/namespaces"
    );
    assert_eq!(
        browser
            .submit("/account/namespaces/mine/delete", &[])
            .await
            .status,
        404,
        "sent twice"
    );
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM api_tokens").await,
        0
    );
}

//! API tokens in the browser.

use lockable::secret::Secret;
use lockable::tokens::Scope;

use super::*;

/// Submits the form of the account page with these fields.
async fn create(browser: &Browser, fields: &[(&str, &str)]) -> Answer {
    let form_id = hidden(&browser.get("/account").await, "form_id");
    let fields = [fields, &[("form_id", form_id.as_str())]].concat();
    browser.submit("/account/tokens", &fields).await
}

#[track_caller]
fn shown(answer: &Answer) -> Secret {
    assert_eq!(answer.status, 201, "{answer:?}");
    Secret::new(between(&answer.text, r#"<code id="token">"#, "<"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_with_a_command_that_takes_a_lock() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    let made = create(
        &browser,
        &[
            ("label", "nightly <report>"),
            ("namespace", "public"),
            ("expires", "7"),
            ("scope", "locks"),
        ],
    )
    .await;
    let token = shown(&made);
    let command = format!(
        "curl -u {}: {}/v1/acquire/my-first-lock",
        token.expose(),
        app.url()
    );
    assert!(made.text.contains(&command), "{}", made.text);
    assert!(app.token(&token).acquire("my-first-lock").await.verdict());
    let list = browser.get("/account").await;
    assert!(!list.text.contains(token.expose()));
    let hint = &token.expose()[32..];
    assert!(list.text.contains(&format!("…{hint}")), "{}", list.text);
    assert!(
        list.text.contains("nightly &#60;report&#62;") && list.text.contains("in 6 days"),
        "{}",
        list.text
    );
    assert_eq!(
        app.db
            .value::<i64>("SELECT count(*) FROM sessions WHERE data::text LIKE '%-%-%-%-%'")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_sent_twice_makes_one_token_and_shows_it_again() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    let form_id = hidden(&browser.get("/account").await, "form_id");
    let fields = [("label", "twice"), ("form_id", form_id.as_str())];
    let (one, other) = tokio::join!(
        browser.submit("/account/tokens", &fields),
        browser.submit("/account/tokens", &fields)
    );
    assert_eq!(shown(&one), shown(&other));
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM api_tokens").await,
        1
    );
    // Somebody else who knows the form's id gets a token of their own.
    let stranger = sign_up(&app, "eve@example.com").await;
    assert_ne!(
        shown(&stranger.submit("/account/tokens", &fields).await),
        shown(&one)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_sent_again_never_shows_a_token_of_other_values_or_a_revoked_one() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    account.namespace("mine").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let form_id = hidden(&browser.get("/account").await, "form_id");
    let send = async |field: (&str, &str)| {
        let plain = [("label", "a"), ("namespace", "public"), ("expires", "0")];
        let fields = plain.map(|other| if other.0 == field.0 { field } else { other });
        shown(
            &browser
                .submit(
                    "/account/tokens",
                    &[&fields[..], &[("form_id", form_id.as_str())]].concat(),
                )
                .await,
        )
    };
    let token = send(("label", "a")).await;
    // The reader goes back in the browser's history and types something else.
    let others = [
        send(("label", "b")).await,
        send(("namespace", "mine")).await,
        send(("expires", "7")).await,
    ];
    assert_eq!(send(("label", "a")).await, token);
    assert!(!others.contains(&token));
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM api_tokens").await,
        4
    );
    let token_id = app
        .db
        .value::<i64>("SELECT min(token_id) FROM api_tokens")
        .await;
    browser
        .submit(&format!("/account/tokens/{token_id}/revoke"), &[])
        .await;
    let again = send(("label", "a")).await;
    assert_ne!(again, token);
    assert!(app.token(&again).acquire("deploy").await.verdict());

    // The same for a rotation.
    let (token_id, _) = account.token_with("public", Scope::Locks, None).await;
    let path = format!("/account/tokens/{token_id}/rotate");
    let rotate = async |keep_old| {
        shown(
            &browser
                .submit(
                    &path,
                    &[("keep_old", keep_old), ("form_id", form_id.as_str())],
                )
                .await,
        )
    };
    let new = rotate("3600").await;
    assert_eq!(rotate("3600").await, new);
    let new_id = app
        .db
        .value::<i64>("SELECT max(token_id) FROM api_tokens")
        .await;
    browser
        .submit(&format!("/account/tokens/{new_id}/revoke"), &[])
        .await;
    let newer = rotate("3600").await;
    assert!(app.token(&newer).acquire("x").await.verdict());
    assert_ne!(
        rotate("0").await,
        newer,
        "another intent, although the same form"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_what_the_scope_manage_allows() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    for page in [browser.get("/account").await, browser.get("/docs").await] {
        let words = page.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let allows = "tokens and namespaces, and breaks locks, by API v2";
        assert!(words.contains(allows), "{words}");
    }
    shown(&create(&browser, &[("label", "x")]).await);
    assert_eq!(
        app.db.value::<String>("SELECT scope FROM api_tokens").await,
        "locks"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_token_form_keeps_its_values() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    for label in ["", "  ", "a\0b", &"x".repeat(101)] {
        let answer = create(&browser, &[("label", label), ("expires", "30")]).await;
        assert!(
            field_error(&answer, "token-label").contains("1 to 100 characters"),
            "{label:?}"
        );
        assert!(answer.text.contains(r#"<option value="30" selected>"#));
    }
    for (field, value) in [
        ("namespace", "mine"),
        ("namespace", "\0"),
        ("expires", "-1"),
        ("expires", "5000000000"),
        ("scope", "all"),
    ] {
        let answer = create(&browser, &[("label", "kept"), (field, value)]).await;
        assert_eq!(answer.status, 422, "{field}={value:?}");
        assert!(answer.text.contains(r#"value="kept""#));
    }
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM api_tokens").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_creations_at_the_limit_at_once_make_one() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    for _ in 0..9 {
        account.token().await;
    }
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let (one, other) = tokio::join!(
        create(&browser, &[("label", "a")]),
        create(&browser, &[("label", "b")])
    );
    let (made, refused) = if one.status == 201 {
        (one, other)
    } else {
        (other, one)
    };
    shown(&made);
    assert!(field_error(&refused, "token-label").contains("10 tokens"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_manage_needs_the_password_again() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    for password in ["", "not the password"] {
        let answer = create(
            &browser,
            &[("label", "x"), ("scope", "manage"), ("password", password)],
        )
        .await;
        assert!(field_error(&answer, "token-password").contains("Enter your password"));
        assert!(!answer.text.contains("not the password"));
    }
    shown(
        &create(
            &browser,
            &[("label", "x"), ("scope", "manage"), ("password", PASSWORD)],
        )
        .await,
    );
    assert_eq!(
        app.db.value::<String>("SELECT scope FROM api_tokens").await,
        "manage"
    );
    // Rotating it needs the password, too.
    let token_id = app.db.value::<i64>("SELECT token_id FROM api_tokens").await;
    let path = format!("/account/tokens/{token_id}/rotate");
    let answer = browser.submit(&path, &[("keep_old", "0")]).await;
    assert!(field_error(&answer, "rotate-password").contains("Enter your password"));
    shown(
        &browser
            .submit(&path, &[("keep_old", "0"), ("password", PASSWORD)])
            .await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_rotated_with_or_without_time_to_change_over() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let (token_id, old) = account.token_with("public", Scope::Locks, None).await;
    let page = browser.get(&format!("/account/tokens/{token_id}")).await;
    assert_eq!(page.status, 200);
    let path = format!("/account/tokens/{token_id}/rotate");
    let answer = browser.submit(&path, &[("keep_old", "31536000")]).await;
    assert_eq!(answer.status, 422);
    let form_id = hidden(&page, "form_id");
    let fields = [("keep_old", "3600"), ("form_id", form_id.as_str())];
    let made = browser.submit(&path, &fields).await;
    let new = shown(&made);
    assert!(made.text.contains("still works for an hour"));
    assert_eq!(
        shown(&browser.submit(&path, &fields).await),
        new,
        "the form sent twice"
    );
    assert!(app.token(&old).acquire("deploy").await.verdict());
    assert!(app.token(&new).heartbeat("deploy").await.verdict());

    let (token_id, old) = account.token_with("public", Scope::Locks, None).await;
    let form_id = hidden(
        &browser.get(&format!("/account/tokens/{token_id}")).await,
        "form_id",
    );
    let path = format!("/account/tokens/{token_id}/rotate");
    let fields = [("keep_old", "0"), ("form_id", form_id.as_str())];
    let new = shown(&browser.submit(&path, &fields).await);
    assert_eq!(
        shown(&browser.submit(&path, &fields).await),
        new,
        "the form sent twice"
    );
    eventually("the old one is refused", async || {
        (app.token(&old).acquire("x").await.status == 401).then_some(())
    })
    .await;
    assert!(app.token(&new).acquire("x").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_beyond_the_plan_comes_back_and_says_why() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    for _ in 0..10 {
        account.token().await;
    }
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let mut paths = app
        .db
        .value::<Vec<i64>>("SELECT array_agg(token_id) FROM api_tokens")
        .await
        .into_iter();
    let mut rotate = async |keep_old| {
        let path = format!("/account/tokens/{}/rotate", paths.next().unwrap());
        browser.submit(&path, &[("keep_old", keep_old)]).await
    };
    // One token above the limit is allowed: without it nobody could change over.
    shown(&rotate("3600").await);
    let answer = rotate("3600").await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert!(answer.text.contains("10 tokens"));
    shown(&rotate("0").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_on_every_node_and_gone_from_the_list() {
    let app = TestApp::start().await;
    let other_node = app.another_node().await;
    let account = app.account_with_password("hobbyist").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let (token_id, token) = account.token_with("public", Scope::Locks, None).await;
    for node in [&app, &other_node] {
        node.token(&token).acquire("warm").await;
    }
    let answer = browser
        .submit_and_follow(&format!("/account/tokens/{token_id}/revoke"), &[])
        .await;
    assert!(answer.text.contains("The token is revoked"));
    assert!(answer.text.contains("No tokens yet"));
    for node in [&app, &other_node] {
        eventually("it is refused", async || {
            (node.token(&token).acquire("x").await.status == 401).then_some(())
        })
        .await;
    }
    assert_eq!(
        browser
            .get(&format!("/account/tokens/{token_id}"))
            .await
            .status,
        404
    );
    assert_eq!(
        browser
            .submit(&format!("/account/tokens/{token_id}/revoke"), &[])
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_accounts_token_is_not_there() {
    let app = TestApp::start().await;
    let mine = app.account("hobbyist").await;
    let (token_id, token) = mine.token_with("public", Scope::Locks, None).await;
    let stranger = sign_up(&app, "eve@example.com").await;
    let page = format!("/account/tokens/{token_id}");
    assert_eq!(stranger.get(&page).await.status, 404);
    assert_eq!(
        stranger.submit(&format!("{page}/revoke"), &[]).await.status,
        404
    );
    assert_eq!(
        stranger
            .submit(&format!("{page}/rotate"), &[("keep_old", "0")])
            .await
            .status,
        404
    );
    for id in ["0", "-1", "x", "99999999999999999999", "%00"] {
        assert_eq!(
            stranger.get(&format!("/account/tokens/{id}")).await.status,
            404,
            "{id}"
        );
        assert_eq!(
            stranger
                .submit(&format!("/account/tokens/{id}/revoke"), &[])
                .await
                .status,
            404,
            "{id}"
        );
    }
    assert!(app.token(&token).acquire("deploy").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_lease_is_chosen_on_business_and_a_403_with_a_way_up_on_hobbyist() {
    let app = TestApp::start_with(|settings| {
        settings.upgrade_url = Some("https://example.com/up".parse().unwrap());
    })
    .await;
    let hobbyist = sign_up(&app, "ada@example.com").await;
    let answer = hobbyist
        .submit("/account/lease", &[("lease_ms", "5000")])
        .await;
    assert_eq!(answer.status, 403);
    assert!(
        answer.text.contains(r#"href="https://example.com/up""#),
        "{}",
        answer.text
    );

    let account = app.account_with_password("business").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    for (typed, problem) in [
        ("999", "1000"),
        ("86400001", "86400000"),
        ("five", "whole number"),
        ("-1", "1000"),
        ("99999999999999999999", "whole number"),
    ] {
        let answer = browser
            .submit("/account/lease", &[("lease_ms", typed)])
            .await;
        assert!(
            field_error(&answer, "lease-lease_ms").contains(problem),
            "{typed}"
        );
        assert!(answer.text.contains(&format!(r#"value="{typed}""#)));
    }
    assert_eq!(
        browser
            .submit("/account/lease", &[("lease_ms", "5,000")])
            .await
            .location(),
        "/account"
    );
    assert_eq!(account.row().await.lease_default_ms, Some(5000));
    let token = account.token().await;
    let answer = app.token(&token).acquire("deploy").await;
    assert_eq!(answer.header("lockable-lease-ms"), Some("5000"));
    browser.submit("/account/lease", &[("lease_ms", "")]).await;
    assert_eq!(account.row().await.lease_default_ms, None);
}

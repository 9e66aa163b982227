//! The links in letters.

use lockable::tokens::Scope;

use super::*;

const NEW: &str = "another horse battery";

#[tokio::test(flavor = "multi_thread")]
async fn an_email_address_is_confirmed_by_pressing_the_button_once() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    assert!(
        browser
            .get("/account")
            .await
            .text
            .contains("Confirm your e-mail address")
    );
    let link = link_in(
        &app,
        &letter_to(&app, "ada@example.com", "Confirm").await,
        "/verify",
    );

    // Looking does nothing: mail programs open links by themselves.
    let reader = app.browser();
    for _ in 0..2 {
        let page = reader.get(&link).await;
        assert_eq!(page.status, 200);
        assert_eq!(hidden(&page, "link"), secret_of(&link));
    }
    assert!(
        app.db
            .value::<bool>("SELECT email_verified_at IS NULL FROM accounts")
            .await
    );

    let fields = [("link", secret_of(&link))];
    assert_eq!(
        reader.submit("/verify", &fields).await.location(),
        "/login?done=address-confirmed"
    );
    assert!(
        app.db
            .value::<bool>("SELECT email_verified_at IS NOT NULL FROM accounts")
            .await
    );
    // The form sent twice gets the same response, although the link is used up.
    assert_eq!(
        reader.submit("/verify", &fields).await.location(),
        "/login?done=address-confirmed"
    );
    assert_eq!(reader.get(&link).await.status, 410);
    assert!(
        !browser
            .get("/account")
            .await
            .text
            .contains("Confirm your e-mail address")
    );
    // A link works for its own purpose only.
    assert_eq!(
        reader
            .submit("/reset", &[("link", secret_of(&link)), ("password", NEW)])
            .await
            .status,
        410
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_stored_hashed_and_work_for_an_hour_only() {
    let app = TestApp::start().await;
    sign_up(&app, "ada@example.com").await;
    let link = link_in(
        &app,
        &letter_to(&app, "ada@example.com", "Confirm").await,
        "/verify",
    );
    let secret = secret_of(&link);
    let count = format!("SELECT count(*) FROM email_links WHERE link_sha256 = sha256('{secret}')");
    assert_eq!(app.db.value::<i64>(&count).await, 1);
    let plain =
        format!("SELECT count(*) FROM email_links WHERE email_links::text LIKE '%{secret}%'");
    assert_eq!(app.db.value::<i64>(&plain).await, 0);
    let hour = "SELECT expires_at BETWEEN created_at + interval '59 min'
                                    AND created_at + interval '61 min' FROM email_links";
    assert!(app.db.value::<bool>(hour).await);
    app.db
        .execute("UPDATE email_links SET expires_at = clock_timestamp()")
        .await;
    assert_eq!(app.browser().get(&link).await.status, 410);
    assert_eq!(
        app.browser()
            .submit("/verify", &[("link", secret)])
            .await
            .status,
        410
    );
    assert!(
        app.db
            .value::<bool>("SELECT email_verified_at IS NULL FROM accounts")
            .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_is_set_anew_and_ends_every_session() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let (_, token) = account.token_with("public", Scope::Locks, None).await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let reader = app.browser();
    let answer = reader
        .submit("/forgot", &[("email", &account.email.to_uppercase())])
        .await;
    assert_eq!(answer.location(), "/forgot?done=sent");
    let link = link_in(
        &app,
        &letter_to(&app, &account.email, "new password").await,
        "/reset",
    );
    let page = reader.get(&link).await;
    assert_eq!(hidden(&page, "link"), secret_of(&link));
    let submit = async |password: &str| {
        reader
            .submit(
                "/reset",
                &[("link", secret_of(&link)), ("password", password)],
            )
            .await
    };

    let weak = submit("short").await;
    assert!(field_error(&weak, "password").contains("at least 10"));
    assert_eq!(
        hidden(&weak, "link"),
        secret_of(&link),
        "a refused password does not use the link up"
    );
    assert_eq!(submit(NEW).await.location(), "/login?done=password-set");
    assert!(!is_signed_in(&browser).await);
    assert_eq!(
        submit(NEW).await.location(),
        "/login?done=password-set",
        "the form sent twice"
    );
    assert_eq!(submit("yet another horse").await.status, 410);
    assert_eq!(
        app.browser()
            .submit(
                "/login",
                &[("email", &account.email), ("password", PASSWORD)]
            )
            .await
            .status,
        422
    );
    sign_in(&app, &account.email, NEW).await;
    letter_to(&app, &account.email, "was changed").await;
    // The e-mail address was confirmed before, so the tokens are its owner's.
    assert!(app.token(&token).acquire("deploy").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_link_is_no_way_to_guess_the_password() {
    let app = TestApp::start_with(|settings| {
        settings.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let account = app.account_with_password("hobbyist").await;
    app.browser()
        .submit("/forgot", &[("email", &account.email)])
        .await;
    let link = link_in(
        &app,
        &letter_to(&app, &account.email, "new password").await,
        "/reset",
    );
    let fields = |password| [("link", secret_of(&link)), ("password", password)];
    assert_eq!(
        app.browser()
            .submit("/reset", &fields(NEW))
            .await
            .location(),
        "/login?done=password-set"
    );
    // Each client IP has tries of its own, so the test uses many.
    let guess = async |number: u32, password| {
        let browser = app.browser();
        let request = browser.request(reqwest::Method::POST, "/reset");
        let request = request.header("x-forwarded-for", format!("192.0.2.{number}"));
        browser
            .send(with_form(request, &fields(password)))
            .await
            .status
            .as_u16()
    };
    let mut number = 0;
    while guess(number, "a wrong password").await == 410 {
        number += 1;
        assert!(number < 100, "it goes on for ever");
    }
    assert_eq!(
        guess(number, NEW).await,
        429,
        "nothing more is said, not even of the right one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_try_out_links() {
    let app = TestApp::start().await;
    let fields = [("link", "no-such-link"), ("password", NEW)];
    let mut tries = 0;
    let last = loop {
        let answer = app.browser().submit("/reset", &fields).await;
        tries += 1;
        if answer.status != 410 || tries == 200 {
            break answer;
        }
    };
    assert_eq!(last.status, 429);
    assert!(tries > 10, "people make mistakes");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_url_of_a_link_is_in_no_referrer_and_its_form_works_without_fetch_metadata() {
    let app = TestApp::start().await;
    sign_up(&app, "ada@example.com").await;
    let link = link_in(
        &app,
        &letter_to(&app, "ada@example.com", "Confirm").await,
        "/verify",
    );
    for path in [
        &link,
        "/verify?link=x",
        "/reset?link=x",
        "/change-email?link=x",
        "/nowhere?link=x",
    ] {
        let page = app.browser().get(path).await;
        assert_eq!(
            page.header("referrer-policy"),
            Some("strict-origin"),
            "{path}"
        );
    }
    // Browsers send these headers over plain HTTP. With `no-referrer` the origin would be `null`.
    let browser = app.browser();
    let request = browser
        .request(reqwest::Method::POST, "/verify")
        .header("origin", app.url());
    let answer = browser
        .send(with_form(request, &[("link", secret_of(&link))]))
        .await;
    assert_eq!(answer.location(), "/login?done=address-confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_first_proves_an_email_address_removes_what_was_made_before_it() {
    let app = TestApp::start().await;
    let squatter = sign_up(&app, "victim@example.com").await;
    let form = squatter.get("/account").await;
    let made = squatter
        .submit(
            "/account/tokens",
            &[("label", "x"), ("form_id", &hidden(&form, "form_id"))],
        )
        .await;
    let token = lockable::secret::Secret::new(between(&made.text, r#"<code id="token">"#, "<"));
    assert!(app.token(&token).acquire("deploy").await.verdict());
    squatter
        .submit(
            "/account/email",
            &[("email", "squatter@example.com"), ("password", PASSWORD)],
        )
        .await;
    let change = link_in(
        &app,
        &letter_to(&app, "squatter@example.com", "new address").await,
        "/change-email",
    );

    app.browser()
        .submit("/forgot", &[("email", "victim@example.com")])
        .await;
    let link = link_in(
        &app,
        &letter_to(&app, "victim@example.com", "new password").await,
        "/reset",
    );
    let fields = [("link", secret_of(&link)), ("password", NEW)];
    assert_eq!(
        app.browser().submit("/reset", &fields).await.location(),
        "/login?done=password-set"
    );

    assert!(!is_signed_in(&squatter).await);
    eventually("its token is refused", async || {
        (app.token(&token).heartbeat("deploy").await.status == 401).then_some(())
    })
    .await;
    assert_eq!(
        app.browser()
            .submit("/change-email", &[("link", secret_of(&change))])
            .await
            .status,
        410
    );
    let owner = sign_in(&app, "victim@example.com", NEW).await;
    assert!(
        !owner
            .get("/account")
            .await
            .text
            .contains("Confirm your e-mail address"),
        "the reset proved the address"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_password_says_nothing_about_who_has_an_account() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let known = app
        .browser()
        .submit("/forgot", &[("email", &account.email)])
        .await;
    let unknown = app
        .browser()
        .submit("/forgot", &[("email", "nobody@example.com")])
        .await;
    assert_eq!(known.status, unknown.status);
    assert_eq!(known.location(), unknown.location());
    let names = |answer: &Answer| {
        answer
            .headers
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&known), names(&unknown));
    letter_to(&app, &account.email, "new password").await;
    assert!(
        !outbox(&app)
            .iter()
            .any(|(_, text)| text.contains("nobody@example.com"))
    );
    // One e-mail address gets no more than so many letters.
    let mut last = 303;
    for _ in 0..10 {
        last = app
            .browser()
            .submit("/forgot", &[("email", &account.email)])
            .await
            .status
            .as_u16();
    }
    assert_eq!(last, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_email_address_counts_once_confirmed_and_the_old_one_gets_a_letter() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let other = app.account_with_password("hobbyist").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let submit = async |email: &str, password: &str| {
        browser
            .submit(
                "/account/email",
                &[("email", email), ("password", password)],
            )
            .await
    };
    let wrong = submit("new@example.com", "not the password").await;
    assert_eq!(
        field_error(&wrong, "email-password"),
        "This is not your password."
    );
    assert!(wrong.text.contains(r#"value="new@example.com""#));
    assert!(
        field_error(&submit(&other.email, PASSWORD).await, "email-email")
            .contains("Another account")
    );
    assert!(
        field_error(&submit("nonsense", PASSWORD).await, "email-email")
            .contains("Enter an e-mail address")
    );
    assert_eq!(
        submit("New@example.com", PASSWORD).await.location(),
        "/account/security"
    );
    assert!(
        browser
            .get("/account/security")
            .await
            .text
            .contains("A link is on its way to New@example.com")
    );
    let link = link_in(
        &app,
        &letter_to(&app, "New@example.com", "new address").await,
        "/change-email",
    );
    assert_eq!(
        account.row().await.email,
        account.email,
        "nothing has changed yet"
    );

    assert_eq!(browser.get(&link).await.status, 200);
    assert_eq!(
        browser
            .submit("/change-email", &[("link", secret_of(&link))])
            .await
            .location(),
        "/account/security"
    );
    assert_eq!(account.row().await.email, "New@example.com");
    assert!(
        letter_to(&app, &account.email, "was changed")
            .await
            .contains("New@example.com")
    );
    assert_eq!(browser.get(&link).await.status, 410);
    sign_in(&app, "new@example.com", PASSWORD).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_address_taken_meanwhile_is_a_page_and_changes_nothing() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    browser
        .submit(
            "/account/email",
            &[("email", "wanted@example.com"), ("password", PASSWORD)],
        )
        .await;
    let link = link_in(
        &app,
        &letter_to(&app, "wanted@example.com", "new address").await,
        "/change-email",
    );
    sign_up(&app, "Wanted@example.com").await;
    let answer = browser
        .submit("/change-email", &[("link", secret_of(&link))])
        .await;
    assert_eq!(answer.status, 409);
    assert!(answer.text.contains("Another account has this address"));
    assert_eq!(account.row().await.email, account.email);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_built_from_the_public_url_and_never_from_the_host_that_a_request_names() {
    let app = TestApp::start_with(|settings| {
        settings.public_url = Some("https://locks.example.com/".parse().unwrap());
    })
    .await;
    let account = app.account_with_password("hobbyist").await;
    let browser = app.browser();
    let request = browser
        .request(reqwest::Method::POST, "/forgot")
        .header("host", "evil.example")
        .header("x-forwarded-host", "evil.example");
    let request = with_form(request, &[("email", account.email.as_str())]);
    assert_eq!(browser.send(request).await.status, 303);
    let letter = letter_to(&app, &account.email, "new password").await;
    assert!(
        letter.contains("https://locks.example.com/reset?link="),
        "{letter}"
    );
    assert!(!letter.contains("evil"), "{letter}");
    assert!(
        letter.contains("From: Lockable <lockable@locks.example.com>"),
        "{letter}"
    );
}

//! Password, sessions, and the end of an account.

use lockable::accounts::PasswordAct;
use lockable::audit::Actor;
use reqwest::Method;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_every_other_session_and_keeps_this_one() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let other = sign_in(&app, &account.email, PASSWORD).await;
    let submit = async |current: &str, new: &str| {
        browser
            .submit(
                "/account/password",
                &[("current_password", current), ("new_password", new)],
            )
            .await
    };
    let wrong = submit("not the password", "another horse battery").await;
    assert_eq!(
        field_error(&wrong, "password-current_password"),
        "This is not your current password."
    );
    assert!(!wrong.text.contains("horse"));
    assert!(
        field_error(&submit(PASSWORD, "short").await, "password-new_password")
            .contains("at least 10")
    );
    assert!(
        field_error(
            &submit(PASSWORD, &account.email).await,
            "password-new_password"
        )
        .contains("not your e-mail")
    );
    assert!(is_signed_in(&other).await, "nothing has changed yet");
    assert_eq!(
        submit(PASSWORD, "another horse battery").await.location(),
        "/account/security"
    );
    assert_eq!(
        submit(PASSWORD, "another horse battery").await.location(),
        "/account/security",
        "the form sent twice"
    );
    assert!(is_signed_in(&browser).await);
    assert!(!is_signed_in(&other).await);
    sign_in(&app, &account.email, "another horse battery").await;
    letter_to(&app, &account.email, "was changed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_began_with_the_old_password_ends_by_itself() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    // Its row was written just after the change had ended all others.
    let email = account.email.parse().unwrap();
    let hash = app
        .passwords
        .hash_new(
            &lockable::secret::Secret::new("another horse battery"),
            &email,
        )
        .await
        .unwrap();
    let mut connection = app.db.connect().await;
    let (owner, change) = (Actor::command("test"), PasswordAct::Change);
    lockable::accounts::set_password(&mut connection, &owner, account.id, &hash, change)
        .await
        .unwrap();
    assert!(!is_signed_in(&browser).await);
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM sessions").await,
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_and_ended_one_by_one_or_all_others() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let phone = app.browser();
    let agent = "Mozilla/5.0 (Android 15; Mobile) Gecko/20100101 Firefox/140.0";
    let request = phone
        .request(Method::POST, "/login")
        .header("user-agent", agent);
    phone
        .send(with_form(
            request,
            &[("email", &account.email), ("password", PASSWORD)],
        ))
        .await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let page = browser.get("/account/security").await;
    assert!(
        page.text.contains("Firefox on Android")
            && page.text.contains("127.0.0.1")
            && page.text.contains("this one")
    );
    let end = between(&page.text, r#"action="/account/sessions/"#, "/end\"");
    let end = format!(
        "/account/sessions/{}/end",
        end.strip_prefix("end-others\"")
            .unwrap_or(&end)
            .rsplit('/')
            .next()
            .unwrap()
    );
    let strangers = sign_up(&app, "eve@example.com").await;
    strangers.submit(&end, &[]).await;
    assert!(is_signed_in(&phone).await, "another account cannot end it");
    let answer = browser.submit_and_follow(&end, &[]).await;
    assert!(answer.text.contains("The session is ended."), "{end}");
    assert!(!is_signed_in(&phone).await);
    for nonsense in ["x", "00", &"0".repeat(64), &"g".repeat(64)] {
        let answer = browser
            .submit(&format!("/account/sessions/{nonsense}/end"), &[])
            .await;
        assert!(
            matches!(answer.status.as_u16(), 303 | 404),
            "{nonsense}: {answer:?}"
        );
    }

    let others = [
        sign_in(&app, &account.email, PASSWORD).await,
        sign_in(&app, &account.email, PASSWORD).await,
    ];
    let answer = browser
        .submit_and_follow("/account/sessions/end-others", &[])
        .await;
    assert!(answer.text.contains("2 other sessions are ended."));
    for other in &others {
        assert!(!is_signed_in(other).await);
    }
    assert!(is_signed_in(&browser).await && is_signed_in(&strangers).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_deleted_with_its_password_and_its_locks_are_free_at_once() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let token = account.token().await;
    assert!(app.token(&token).acquire("deploy").await.verdict());
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    assert!(
        browser
            .get("/account/delete")
            .await
            .text
            .contains("released at once")
    );
    let wrong = browser
        .submit("/account/delete", &[("password", "not the password")])
        .await;
    assert_eq!(
        field_error(&wrong, "password"),
        "This is not your password."
    );
    assert!(app.token(&token).heartbeat("deploy").await.verdict());

    let answer = browser
        .submit("/account/delete", &[("password", PASSWORD)])
        .await;
    assert_eq!(answer.location(), "/login?done=account-deleted");
    let other = app.account("hobbyist").await.token().await;
    assert!(
        app.token(&other).acquire("deploy").await.verdict(),
        "free at once"
    );
    assert!(!is_signed_in(&browser).await);
    eventually("its token is refused", async || {
        (app.token(&token).acquire("x").await.status == 401).then_some(())
    })
    .await;
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
    let left = format!(
        "SELECT count(*) FROM accounts WHERE account_id = {}",
        account.id
    );
    assert_eq!(app.db.value::<i64>(&left).await, 0);
    // The e-mail address is free again.
    sign_up(&app, &account.email).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_no_way_to_guess_the_password() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    let mut last = 422;
    for _ in 0..12 {
        last = browser
            .submit("/account/delete", &[("password", "a guess of it")])
            .await
            .status
            .as_u16();
    }
    assert_eq!(last, 429);
    let right = browser
        .submit("/account/delete", &[("password", PASSWORD)])
        .await;
    assert_eq!(right.status, 429);
    assert!(is_signed_in(&browser).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_stays_ended_whatever_still_writes_to_it() {
    use lockable::accounts::sessions::{self, SessionHash};
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    let cookies = browser.cookies();
    let hash = SessionHash::of(&between(&cookies, "lockable=", ";"));
    let data = sessions::load(&app.app.db, hash).await.unwrap().unwrap();
    assert!(sessions::save(&app.app.db, hash, &data).await.unwrap());
    sessions::delete(&app.app.db, hash).await.unwrap();
    // A request that had read the session before saves it.
    assert!(!sessions::save(&app.app.db, hash, &data).await.unwrap());
    assert_eq!(
        app.db.value::<i64>("SELECT count(*) FROM sessions").await,
        0
    );
}

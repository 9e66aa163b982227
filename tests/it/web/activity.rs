//! What pages write into the activity of an account.

use lockable::activity::Entry;
use lockable::audit::Actor;
use reqwest::Method;

use super::*;
use crate::activity::entries;

const NEW: &str = "another horse battery";

/// The acts of an account, the oldest first.
async fn acts(app: &TestApp, account: &crate::support::app::TestAccount) -> Vec<String> {
    let all = entries(&app.db, account.id).await;
    all.into_iter().map(|entry| entry.action).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_does_in_a_browser_is_recorded() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    let browser = app.browser();
    let request = browser
        .request(Method::POST, "/login")
        .header("user-agent", "Mozilla/5.0 (a test)");
    let fields = [("email", account.email.as_str()), ("password", PASSWORD)];
    browser.send(with_form(request, &fields)).await;
    let submit = async |path: &str, fields: &[(&str, &str)]| {
        let answer = browser.submit(path, fields).await;
        assert!(matches!(answer.status.as_u16(), 201 | 303), "{answer:?}");
    };
    submit("/account/namespaces", &[("name", "builds")]).await;
    let token = [("label", "nightly"), ("namespace", "builds")];
    submit("/account/tokens", &token).await;
    let token_id: i64 = app.db.value("SELECT max(token_id) FROM api_tokens").await;
    let path = format!("/account/tokens/{token_id}");
    submit(&format!("{path}/rotate"), &[("keep_old", "3600")]).await;
    submit(&format!("{path}/revoke"), &[]).await;
    submit("/account/namespaces/builds/lease", &[("lease_ms", "5000")]).await;
    submit("/account/namespaces/builds/delete", &[]).await;
    let passwords = [("current_password", PASSWORD), ("new_password", NEW)];
    submit("/account/password", &passwords).await;
    let new_email = "New@example.com";
    submit("/account/email", &[("email", new_email), ("password", NEW)]).await;
    let link = link_in(
        &app,
        &letter_to(&app, new_email, "new address").await,
        "/change-email",
    );
    submit("/change-email", &[("link", secret_of(&link))]).await;

    let all = entries(&app.db, account.id).await;
    let found: Vec<_> = all
        .iter()
        .map(|entry| (entry.action.as_str(), entry.subject.as_str()))
        .collect();
    let email = account.email.as_str();
    let expected = [
        ("account.sign-in", email),
        ("namespace.create", "namespace:builds"),
        ("token.create", "token:nightly"),
        ("token.rotate", "token:nightly"),
        ("token.revoke", "token:nightly"),
        ("namespace.set-lease", "namespace:builds"),
        ("namespace.delete", "namespace:builds"),
        ("account.change-password", email),
        ("account.change-email", new_email),
    ];
    assert_eq!(found, expected);
    for entry in &all {
        assert_eq!((&*entry.author, &*entry.means), ("owner", "browser"));
        assert_eq!(entry.client_ip.as_deref(), Some("127.0.0.1"), "{entry:?}");
    }
    let details = |entry: &Entry| entry.details.clone().unwrap();
    assert_eq!(
        details(&all[0]),
        serde_json::json!({"user_agent": "Mozilla/5.0 (a test)"})
    );
    assert_eq!(
        details(&all[8]),
        serde_json::json!({"before": email, "after": new_email})
    );
    let text: String = app
        .db
        .value("SELECT string_agg(a::text, ' ') FROM account_activity a")
        .await;
    for secret in [PASSWORD, NEW, secret_of(&link)] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_up_is_the_first_sign_in() {
    let app = TestApp::start().await;
    sign_up(&app, "ada@example.com").await;
    let found: Vec<(String, String)> =
        sqlx::query_as("SELECT action, subject FROM account_activity")
            .fetch_all(&app.db.pool)
            .await
            .unwrap();
    let expected = ("account.sign-in".to_owned(), "ada@example.com".to_owned());
    assert_eq!(found, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_sign_ins_of_an_account_are_recorded_and_those_of_nobody_are_not() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    let recorded = async |expected: usize| {
        eventually("failures are recorded", async || {
            let all = entries(&app.db, account.id).await;
            (all.len() == expected).then_some(all)
        })
        .await
    };
    let submit = async |path: &str, email: &str, password: &str| {
        let fields = [("email", email), ("password", password)];
        app.browser().submit(path, &fields).await.status.as_u16()
    };
    assert_eq!(submit("/login", "nobody@example.com", PASSWORD).await, 422);
    assert_eq!(submit("/login", &account.email, "a wrong guess").await, 422);
    // Signing up with the password of an account is signing in.
    let status = submit("/signup", &account.email, "another wrong guess").await;
    assert_eq!(status, 422);
    recorded(2).await;
    let command = Actor::command("test");
    lockable::accounts::suspend(&app.app.db, &command, account.id, "it spams")
        .await
        .unwrap();
    assert_eq!(submit("/login", &account.email, PASSWORD).await, 403);
    let all = recorded(3).await;
    let reasons: Vec<_> = all
        .iter()
        .map(|entry| entry.details.as_ref().unwrap()["reason"].clone())
        .collect();
    assert_eq!(reasons, ["wrong-password", "wrong-password", "suspended"]);
    for entry in &all {
        assert_eq!(
            (&*entry.action, &*entry.author, &*entry.means),
            ("account.sign-in-failed", "visitor", "browser")
        );
        assert_eq!(entry.client_ip.as_deref(), Some("127.0.0.1"));
    }
    let text: String = app
        .db
        .value("SELECT string_agg(a::text, ' ') FROM account_activity a")
        .await;
    assert!(
        !text.contains("guess") && !text.contains("nobody"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_password_is_recorded_with_the_tokens_that_it_revoked() {
    let app = TestApp::start().await;
    let account = app.account_with_password("hobbyist").await;
    account.token().await;
    // As after a sign-up: the link is the first proof of the address.
    app.db
        .execute("UPDATE accounts SET email_verified_at = NULL")
        .await;
    app.browser()
        .submit("/forgot", &[("email", &account.email)])
        .await
        .location();
    let letter = letter_to(&app, &account.email, "new password").await;
    let link = link_in(&app, &letter, "/reset");
    let fields = [("link", secret_of(&link)), ("password", NEW)];
    let answer = app.browser().submit("/reset", &fields).await;
    assert_eq!(answer.location(), "/login?done=password-set");
    // The form sent twice.
    app.browser().submit("/reset", &fields).await.location();
    let all = entries(&app.db, account.id).await;
    let found = acts(&app, &account).await;
    let expected = ["token.create", "account.reset-password", "token.revoke-all"];
    assert_eq!(found, expected);
    for entry in &all[1..] {
        assert_eq!((&*entry.author, &*entry.means), ("owner", "browser"));
        assert_eq!(entry.client_ip.as_deref(), Some("127.0.0.1"));
        assert_eq!(entry.subject, account.email);
    }
    assert_eq!(all[2].details, Some(serde_json::json!({"tokens": 1})));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_broken_on_a_page_is_recorded_for_its_holder() {
    let app = TestApp::start().await;
    let (holder, admin) = (
        app.account_with_password("hobbyist").await,
        app.administrator().await,
    );
    let program = app.token(&holder.token().await);
    let mine = program
        .acquire("mine")
        .await
        .number("lockable-fencing-token");
    assert!(program.acquire("theirs").await.verdict());
    let browser = sign_in(&app, &holder.email, PASSWORD).await;
    let fields = [
        ("namespace", "public"),
        ("name", "mine"),
        ("fencing_token", &mine.to_string()),
        ("reason", "tidy up"),
    ];
    browser
        .submit("/account/locks/break", &fields)
        .await
        .location();
    let browser = sign_in(&app, &admin.email, PASSWORD).await;
    let fields = [("name", "theirs"), ("reason", "it hangs")];
    browser.submit("/admin/locks", &fields).await.location();
    let all = entries(&app.db, holder.id).await;
    let breaks: Vec<_> = all
        .iter()
        .filter(|entry| entry.action == "lock.break")
        .map(|entry| {
            (
                &*entry.subject,
                &*entry.author,
                &*entry.means,
                entry.client_ip.as_deref(),
            )
        })
        .collect();
    let expected = [
        ("lock:public/mine", "owner", "browser", Some("127.0.0.1")),
        ("lock:public/theirs", "administrator", "browser", None),
    ];
    assert_eq!(breaks, expected);
    assert_eq!(acts(&app, &admin).await, ["account.sign-in"]);
}

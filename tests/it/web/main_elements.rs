//! The main element of each page, as a snapshot: here a change of a template, or of the values in
//! it, is seen as a reader would see it.
//!
//! White space between elements is normalized, since browsers do not show it. Instants, secrets and
//! row numbers that differ from run to run are masked.

use lockable::tokens::Scope;

use super::*;

/// The main element, one element a line, with `masks` (text, replacement) applied.
#[track_caller]
fn main_element(answer: &Answer, masks: &[(&str, &str)]) -> String {
    let html = between(&answer.text, "<main", "</main>");
    let (_, content) = html.split_once('>').unwrap();
    let words: Vec<_> = content.split_whitespace().collect();
    let title = between(&answer.text, "<title>", "</title>");
    let content = words.join(" ").replace("> <", "><").replace("><", ">\n<");
    let mut text = format!("{} {title}\n{content}\n", answer.status.as_u16());
    for (from, to) in masks {
        text = text.replace(from, to);
    }
    for (before, after, instead) in [
        ("<time ", "</time>", "INSTANT"),
        (r#"name="form_id" value=""#, "\"", "FORM-ID"),
        (r#"data-remaining-ms=""#, "<", "REMAINING"),
        ("Request id: <code>", "<", "REQUEST-ID"),
        ("request <code>", "<", "REQUEST-ID"),
        ("<code>…", "<", "HINT"),
    ] {
        text = mask(&text, before, after, instead);
    }
    text
}

/// Puts `instead` where anything stands between `before` and `after`.
fn mask(text: &str, before: &str, after: &str, instead: &str) -> String {
    let mut pieces = text.split(before);
    let mut masked = pieces.next().unwrap().to_owned();
    for piece in pieces {
        masked.push_str(before);
        match piece.split_once(after) {
            Some((_, rest)) => masked.push_str(&[instead, after, rest].concat()),
            None => masked.push_str(piece),
        }
    }
    masked
}

macro_rules! assert_page {
    ($name:literal, $answer:expr, $masks:expr) => {
        insta::assert_snapshot!($name, main_element(&$answer, $masks));
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_visitors() {
    let app = TestApp::start().await;
    sign_up(&app, "ada@example.com").await;
    let visitor = app.browser();
    let url = app.url();
    let masks = [(url.as_str(), "http://lockable.test")];
    let twice = [("email", "ada@example.com"), ("password", "another one")];
    assert_page!("sign_up", visitor.get("/signup").await, &masks);
    assert_page!(
        "sign_up_rejected",
        visitor.submit("/signup", &twice).await,
        &masks
    );
    assert_page!(
        "log_in",
        visitor
            .get("/login?next=/account/locks&done=signed-out")
            .await,
        &masks
    );
    assert_page!(
        "log_in_rejected",
        visitor.submit("/login", &twice).await,
        &masks
    );
    assert_page!("forgot", visitor.get("/forgot").await, &masks);
    assert_page!(
        "forgot_rejected",
        visitor.submit("/forgot", &[("email", "ada")]).await,
        &masks
    );
    assert_page!(
        "forgot_sent",
        visitor.get("/forgot?done=sent").await,
        &masks
    );
    assert_page!("link_unusable", visitor.get("/reset?link=x").await, &masks);
    assert_page!("no_such_page", visitor.get("/nowhere").await, &masks);
    let letter = letter_to(&app, "ada@example.com", "Confirm").await;
    let link = link_in(&app, &letter, "/verify");
    let masks = [masks[0], (secret_of(&link), "SECRET")];
    assert_page!("confirm_email", visitor.get(&link).await, &masks);
    visitor
        .submit("/forgot", &[("email", "ada@example.com")])
        .await;
    let letter = letter_to(&app, "ada@example.com", "new password").await;
    let link = link_in(&app, &letter, "/reset");
    let masks = [masks[0], (secret_of(&link), "SECRET")];
    assert_page!("reset", visitor.get(&link).await, &masks);
    let fields = [("link", secret_of(&link)), ("password", "short")];
    assert_page!(
        "reset_rejected",
        visitor.submit("/reset", &fields).await,
        &masks
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_hobbyist() {
    let app = TestApp::start().await;
    let browser = sign_up(&app, "ada@example.com").await;
    let url = app.url();
    let masks = [(url.as_str(), "http://lockable.test")];
    assert_page!("overview_hobbyist", browser.get("/account").await, &masks);
    assert_page!(
        "namespaces_hobbyist",
        browser.get("/account/namespaces").await,
        &masks
    );
    assert_page!("locks_none", browser.get("/account/locks").await, &masks);
    assert_page!("security", browser.get("/account/security").await, &masks);
    let wrong = [("current_password", "x"), ("new_password", "short")];
    assert_page!(
        "security_password_rejected",
        browser.submit("/account/password", &wrong).await,
        &masks
    );
    let wrong = [("email", "grace@example.com"), ("password", "x")];
    assert_page!(
        "security_email_rejected",
        browser.submit("/account/email", &wrong).await,
        &masks
    );
    assert_page!("delete", browser.get("/account/delete").await, &masks);
    assert_page!(
        "delete_rejected",
        browser.submit("/account/delete", &[]).await,
        &masks
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_business_account() {
    let app = TestApp::start().await;
    let account = app.account_with_password("business").await;
    let token = account.private("billing").await;
    account.namespace("team-7").await;
    account.token_with("billing", Scope::Manage, None).await;
    let browser = sign_in(&app, &account.email, PASSWORD).await;
    let mut masks = vec![(account.email.as_str(), "owner@example.com")];
    assert_page!("overview", browser.get("/account").await, &masks);
    let fields = [
        ("label", ""),
        ("namespace", "team-7"),
        ("expires", "30"),
        ("scope", "manage"),
    ];
    assert_page!(
        "overview_token_rejected",
        browser
            .submit(
                "/account/tokens",
                &[&fields[..], &[("password", PASSWORD)]].concat()
            )
            .await,
        &masks
    );
    assert_page!(
        "overview_lease_rejected",
        browser.submit("/account/lease", &[("lease_ms", "1")]).await,
        &masks
    );
    assert_page!("token", browser.get("/account/tokens/2").await, &masks);
    assert_page!(
        "token_rotation_rejected",
        browser
            .submit("/account/tokens/2/rotate", &[("keep_old", "0")])
            .await,
        &masks
    );
    assert_page!(
        "namespaces",
        browser.get("/account/namespaces").await,
        &masks
    );
    assert_page!(
        "namespaces_rejected",
        browser
            .submit(
                "/account/namespaces",
                &[("name", "Billing"), ("lease_ms", "1")]
            )
            .await,
        &masks
    );
    let granted = app.token(&token).acquire("nightly & more").await;
    let fencing_token = granted.header("lockable-fencing-token").unwrap().to_owned();
    let (in_url, in_field) = (
        format!("fencing_token={fencing_token}"),
        format!(r#"value="{fencing_token}""#),
    );
    let (in_table, in_list) = (
        format!(r#"class="number">{fencing_token}<"#),
        format!("<dd>{fencing_token}<"),
    );
    masks.extend([
        (in_url.as_str(), "fencing_token=1"),
        (in_field.as_str(), r#"value="1""#),
        (in_table.as_str(), r#"class="number">1<"#),
        (in_list.as_str(), "<dd>1<"),
    ]);
    assert_page!("locks", browser.get("/account/locks").await, &masks);
    let lease = [
        ("namespace", "billing"),
        ("name", "nightly & more"),
        ("fencing_token", &fencing_token),
    ];
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(lease)
        .finish();
    assert_page!(
        "lock_break",
        browser.get(&format!("/account/locks/break?{query}")).await,
        &masks
    );
    assert_page!(
        "lock_break_rejected",
        browser.submit("/account/locks/break", &lease).await,
        &masks
    );
    assert_page!(
        "namespace_in_use",
        browser
            .submit("/account/namespaces/billing/delete", &[])
            .await,
        &masks
    );
    assert_page!(
        "namespace_lease_rejected",
        browser
            .submit("/account/namespaces/team-7/lease", &[("lease_ms", "x")])
            .await,
        &masks
    );
    app.db
        .execute("UPDATE plans SET max_private_namespaces = 1 WHERE code = 'business'")
        .await;
    assert_page!(
        "namespaces_over_the_plan",
        browser.get("/account/namespaces").await,
        &masks
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_an_administrator() {
    let app = TestApp::start().await;
    let (admin, user) = (app.administrator().await, app.account("hobbyist").await);
    let browser = sign_in(&app, &admin.email, PASSWORD).await;
    let masks = [
        (admin.email.as_str(), "admin@example.com"),
        (user.email.as_str(), "user@example.com"),
    ];
    let page = format!("/admin/accounts/{}", user.id);
    assert_page!("admin_plans", browser.get("/admin/plans").await, &masks);
    assert_page!(
        "admin_plan_new",
        browser.get("/admin/plans/new").await,
        &masks
    );
    assert_page!(
        "admin_plan",
        browser.get("/admin/plans/business/edit").await,
        &masks
    );
    assert_page!(
        "admin_plan_rejected",
        browser
            .submit(
                "/admin/plans",
                &[("code", "A"), ("name", "Team"), ("max_tokens", "x")]
            )
            .await,
        &masks
    );
    assert_page!("admin_locks", browser.get("/admin/locks").await, &masks);
    assert_page!(
        "admin_locks_rejected",
        browser.submit("/admin/locks", &[("name", "free")]).await,
        &masks
    );
    assert_page!("admin_account", browser.get(&page).await, &masks);
    assert_page!(
        "admin_account_plan_rejected",
        browser
            .submit(&format!("{page}/plan"), &[("plan", "gold")])
            .await,
        &masks
    );
    assert_page!(
        "admin_account_suspension_rejected",
        browser
            .submit(&format!("{page}/suspend"), &[("reason", " ")])
            .await,
        &masks
    );
    let suspend = [("reason", "It <spams>.")];
    assert_page!(
        "admin_account_suspended",
        browser
            .submit_and_follow(&format!("{page}/suspend"), &suspend)
            .await,
        &masks
    );
    assert_page!(
        "admin_accounts",
        browser.get("/admin/accounts?q=example").await,
        &masks
    );
    assert_page!(
        "admin_accounts_none",
        browser.get("/admin/accounts?q=nobody&plan=business").await,
        &masks
    );
    assert_page!(
        "admin_audit",
        browser
            .get(&format!("/admin/audit?account={}", user.id))
            .await,
        &masks
    );
    app.db
        .execute(
            "INSERT INTO accounts (email, email_key, plan_id)
             SELECT 'u' || n || '@x.com', 'u' || n || '@x.com', 1 FROM generate_series(1, 120) n",
        )
        .await;
    let middle = browser.get("/admin/accounts?q=x.com&before=80").await;
    let links = between(&middle.text, r#"<nav class="pages""#, "</nav>");
    insta::assert_snapshot!("admin_accounts_links", links);
}

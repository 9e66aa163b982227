//! Administration in the browser: its readers, bad input, and the audit log.

use reqwest::Method;

use super::*;

const PAGES: [&str; 9] = [
    "/admin/accounts",
    "/admin/accounts/1",
    "/admin/plans",
    "/admin/plans/new",
    "/admin/plans/hobbyist/edit",
    "/admin/locks",
    "/admin/audit",
    "/admin/accounts?q=a&plan=business&before=7",
    "/admin/audit?q=a&account=1&before=7",
];
const ACTS: [&str; 7] = [
    "/admin/accounts/1/plan",
    "/admin/accounts/1/suspend",
    "/admin/accounts/1/restore",
    "/admin/accounts/1/promote",
    "/admin/plans",
    "/admin/plans/hobbyist/edit",
    "/admin/locks",
];
/// The fields of all acts.
const FIELDS: [(&str, &str); 6] = [
    ("plan", "business"),
    ("reason", "because"),
    ("sure", "yes"),
    ("name", "x"),
    ("code", "x"),
    ("max_tokens", "1"),
];

fn audit_entries(app: &TestApp) -> impl Future<Output = i64> {
    app.db.value::<i64>("SELECT count(*) FROM audit_log")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administration_does_not_exist_for_other_accounts() {
    let app = TestApp::start().await;
    let user = app.account_with_password("business").await;
    let (visitor, browser) = (app.browser(), sign_in(&app, &user.email, PASSWORD).await);
    for path in PAGES {
        assert!(
            visitor
                .get(path)
                .await
                .location()
                .starts_with("/login?next=%2Fadmin"),
            "{path}"
        );
        assert_eq!(browser.get(path).await.status, 404, "{path}");
    }
    for path in ACTS {
        assert_eq!(
            visitor.submit(path, &FIELDS).await.location(),
            "/login",
            "{path}"
        );
        assert_eq!(browser.submit(path, &FIELDS).await.status, 404, "{path}");
    }
    // Another site cannot use an administrator's browser.
    let admin = app.administrator().await;
    let admin = sign_in(&app, &admin.email, PASSWORD).await;
    for path in ACTS {
        let request = with_form(admin.request(Method::POST, path), &FIELDS)
            .header("origin", "https://evil.example.com")
            .header("sec-fetch-site", "cross-site");
        assert_eq!(admin.send(request).await.status, 403, "{path}");
    }
    assert_eq!(audit_entries(&app).await, 0);
    // Nor does it exist for an account that is no administrator any more.
    app.db.execute("UPDATE accounts SET is_admin = false").await;
    assert_eq!(admin.get("/admin/accounts").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_rejected_and_not_in_the_audit_log() {
    let app = TestApp::start().await;
    let (admin, user) = (app.administrator().await, app.account("hobbyist").await);
    let browser = sign_in(&app, &admin.email, PASSWORD).await;
    let page = format!("/admin/accounts/{}", user.id);
    let to = |act: &str| format!("{page}/{act}");
    for plan in ["", "gold", "Hobbyist", "a\0"] {
        field_error(
            &browser.submit(&to("plan"), &[("plan", plan)]).await,
            "account-plan",
        );
    }
    for reason in ["", " ", "a\0b"] {
        field_error(
            &browser.submit(&to("suspend"), &[("reason", reason)]).await,
            "account-reason",
        );
    }
    field_error(&browser.submit(&to("promote"), &[]).await, "account-sure");
    let own = format!("/admin/accounts/{}/suspend", admin.id);
    browser
        .submit(&own, &[("reason", "tired of it")])
        .await
        .location();
    for path in [
        "/admin/accounts/0",
        "/admin/accounts/x",
        "/admin/accounts/99999999999999999999",
        "/admin/accounts/-1",
    ] {
        assert_eq!(browser.get(path).await.status, 404, "{path}");
        assert_eq!(
            browser
                .submit(&format!("{path}/suspend"), &[("reason", "x")])
                .await
                .status,
            404,
            "{path}"
        );
    }
    // An act that was done before is not done again, and the page says so.
    assert_eq!(browser.submit(&to("restore"), &[]).await.location(), page);
    assert!(browser.get(&page).await.text.contains("Nothing to do"));
    assert_eq!(
        browser
            .submit(&to("plan"), &[("plan", "hobbyist")])
            .await
            .location(),
        page
    );
    assert!(browser.get(&page).await.text.contains("Nothing to do"));
    for (name, reason, field) in [
        ("", "x", "break-name"),
        ("a\0", "x", "break-name"),
        ("free", "x", "break-name"),
        ("free", "", "break-reason"),
    ] {
        field_error(
            &browser
                .submit("/admin/locks", &[("name", name), ("reason", reason)])
                .await,
            field,
        );
    }
    for query in [
        "q=%00",
        "q=%25_%27",
        "before=x",
        "before=-1",
        "account=x",
        "q=%ff",
        "plan=%00",
    ] {
        for path in ["/admin/accounts", "/admin/audit"] {
            let status = browser.get(&format!("{path}?{query}")).await.status;
            assert!(!status.is_server_error(), "{path}?{query}: {status}");
        }
    }
    assert_eq!(audit_entries(&app).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_checked_field_by_field() {
    let app = TestApp::start().await;
    let admin = app.administrator().await;
    let browser = sign_in(&app, &admin.email, PASSWORD).await;
    let good = [
        ("code", "team"),
        ("name", "Team"),
        ("lease_min_ms", "1000"),
        ("lease_default_ms", "60000"),
        ("lease_max_ms", "3600000"),
        ("max_private_namespaces", "3"),
        ("max_tokens", "20"),
        ("max_live_locks", "1,000"),
        ("max_waiters", "10"),
        ("requests_per_second", "100"),
        ("history_days", "3"),
    ];
    for (field, bad) in [
        ("code", "Team 1"),
        ("code", "hobbyist"),
        ("code", "\0"),
        ("name", " "),
        ("name", "a\0"),
        ("lease_min_ms", "999"),
        ("lease_min_ms", "1.5"),
        ("lease_default_ms", "3600001"),
        ("lease_max_ms", "86400001"),
        ("lease_max_ms", "999999999999"),
        ("max_private_namespaces", "-1"),
        ("max_tokens", "0"),
        ("max_live_locks", ""),
        ("max_waiters", "many"),
        ("requests_per_second", "0"),
        ("history_days", "366"),
    ] {
        let fields = good.map(|(name, value)| (name, if name == field { bad } else { value }));
        let answer = browser.submit("/admin/plans", &fields).await;
        field_error(&answer, &format!("plan-{field}"));
        if field != "name" {
            assert!(
                answer.text.contains(r#"value="Team""#),
                "the form keeps its values"
            );
        }
    }
    assert_eq!(audit_entries(&app).await, 0);
    assert_eq!(
        browser.submit("/admin/plans", &good).await.location(),
        "/admin/plans"
    );
    assert_eq!(
        app.db
            .value::<i32>("SELECT max_live_locks FROM plans WHERE code = 'team'")
            .await,
        1000
    );
    assert_eq!(browser.get("/admin/plans/nothing/edit").await.status, 404);
    assert_eq!(
        browser.submit("/admin/plans/%00/edit", &good).await.status,
        404
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_administrators_edit_different_limits_at_once() {
    let app = TestApp::start().await;
    let admin = app.administrator().await;
    let browser = sign_in(&app, &admin.email, PASSWORD).await;
    // Both have the form open as it is now.
    let form = browser.get("/admin/plans/hobbyist/edit").await;
    let names = [
        "lease_min_ms",
        "lease_default_ms",
        "lease_max_ms",
        "max_private_namespaces",
        "max_tokens",
    ];
    let names = names.into_iter().chain([
        "max_live_locks",
        "max_waiters",
        "requests_per_second",
        "history_days",
        "name",
    ]);
    let seen: Vec<(String, String)> = names
        .map(|name| (name.to_owned(), hidden(&form, &format!("was_{name}"))))
        .collect();
    let submit = async |field: &str, value: &str| {
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, was) in &seen {
            fields.push((
                name.clone(),
                if name == field {
                    value.to_owned()
                } else {
                    was.clone()
                },
            ));
            fields.push((format!("was_{name}"), was.clone()));
        }
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        browser.submit("/admin/plans/hobbyist/edit", &fields).await
    };
    assert_eq!(submit("max_tokens", "11").await.location(), "/admin/plans");
    let answer = submit("max_waiters", "222").await;
    assert_eq!(answer.location(), "/admin/plans");
    let row = "SELECT max_tokens || ' ' || max_waiters FROM plans WHERE code = 'hobbyist'";
    assert_eq!(app.db.value::<String>(row).await, "11 222");
    // The audit log has the values before and after, the actor, the client IP and the request.
    let entry = "SELECT concat_ws(' ', actor, host(address), action, subject,
                                  before ->> 'max_waiters', after ->> 'max_waiters', request_id)
                   FROM audit_log ORDER BY audit_id DESC LIMIT 1";
    let expected = format!(
        "{} 127.0.0.1 plan.update plan:hobbyist 100 222",
        admin.email
    );
    let request_id = answer.header("x-request-id").unwrap();
    assert_eq!(
        app.db.value::<String>(entry).await,
        format!("{expected} {request_id}")
    );
    let page = browser.get("/admin/audit?q=plan.update").await.text;
    assert!(
        page.contains("max waiters") && page.contains(">222<"),
        "{page}"
    );
    assert!(!page.contains("requests per second"), "only what changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_and_audit_entries_are_found_and_paged() {
    let app = TestApp::start().await;
    let admin = app.administrator().await;
    app.db
        .execute(
            "INSERT INTO accounts (email, email_key, plan_id)
             SELECT 'User' || n || '@Example.com', 'user' || n || '@example.com', 1
               FROM generate_series(1000, 1119) n",
        )
        .await;
    app.db
        .execute(
            "INSERT INTO audit_log (actor, action, subject)
             SELECT 'command:root', 'account.create', 'user' || n || '@example.com'
               FROM generate_series(1000, 1119) n",
        )
        .await;
    let browser = sign_in(&app, &admin.email, PASSWORD).await;
    for (start, row) in [
        ("/admin/accounts?q=USER1", "<th scope=\"row\""),
        ("/admin/audit?q=USER1", "<li>\n    <p"),
    ] {
        let mut path = start.to_owned();
        let mut seen = Vec::new();
        loop {
            let page = browser.get(&path).await.text;
            seen.extend(page.split(row).skip(1).map(|rest| {
                let at = rest.to_lowercase().find("user1").unwrap();
                rest[at..at + 8].to_lowercase()
            }));
            assert!(seen.len() <= 120, "the pages end");
            let Some(next) = page
                .split(r#"href=""#)
                .find(|rest| rest.contains(">Older<") && rest.starts_with("/admin"))
            else {
                break;
            };
            path = next.split('"').next().unwrap().replace("&#38;", "&");
        }
        let expected: Vec<_> = (1000..1120)
            .rev()
            .map(|number| format!("user{number}"))
            .collect();
        assert_eq!(seen, expected, "{start}");
    }
    let one = browser
        .get("/admin/accounts?q=user1077%40example.com&plan=hobbyist")
        .await
        .text;
    assert!(one.contains("User1077@Example.com") && !one.contains("User1078"));
    let none = browser
        .get("/admin/accounts?q=user1077&plan=business")
        .await
        .text;
    assert!(none.contains("No account matches"));
}

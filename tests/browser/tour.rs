//! Every page of the product, with the data of a service in use: for axe-core, and for pictures.
//! `cargo test --test browser pictures -- --ignored` leaves those in `target/pictures/`.

use std::path::PathBuf;

use lockable::accounts::{self, Email, NewAccount};
use lockable::audit::{Actor, Means};
use lockable::secret::Secret;
use lockable::tokens::{self, EmailConfirmation, NewToken, Scope};
use lockable::{namespaces, plans};

use crate::accessibility;
use crate::browser::{Browser, Scheme, Script, browse};
use crate::steps::{link_in_mail, sign_in, sign_in_with, sign_up};
use crate::support::app::{PASSWORD, TestApp};

const OWNER: &str = "grace@example.com";
const ADMIN: &str = "ops@example.com";

async fn account(app: &TestApp, email: &str, plan: &str, is_admin: bool) -> accounts::Account {
    let email: Email = email.parse().unwrap();
    let password = Some(
        app.passwords
            .hash_new(&Secret::new(PASSWORD), &email)
            .await
            .unwrap(),
    );
    let new = NewAccount {
        email: &email,
        password,
        plan,
        is_admin,
        email_verified: true,
    };
    let account_id = accounts::create(&app.app.db, new, None).await.unwrap();
    accounts::find(&app.app.db, account_id).await.unwrap()
}

async fn token(app: &TestApp, account: &accounts::Account, label: &str, namespace: &str) -> Secret {
    let new = NewToken {
        label,
        namespace,
        scope: Scope::Locks,
        expires_at: None,
    };
    let actor = Actor::command("tour");
    let confirmation = EmailConfirmation::NotRequired;
    tokens::create(&app.app.db, &actor, account, confirmation, &new)
        .await
        .unwrap()
        .1
}

/// The data of an account in use: namespaces, tokens, locks.
async fn busy(app: &TestApp) {
    let owner = account(app, OWNER, "business", false).await;
    let db = &app.app.db;
    for (name, lease_ms) in [
        ("billing", Some(300_000)),
        ("reports", None),
        ("deploys", Some(3_600_000)),
    ] {
        let actor = Actor::command("tour");
        namespaces::create(db, &actor, &owner, name, lease_ms)
            .await
            .unwrap();
    }
    for (label, namespace, names) in [
        (
            "nightly-report",
            "reports",
            &["monthly/2026-10", "nightly"][..],
        ),
        (
            "invoice-worker",
            "billing",
            &["invoice-84113", "invoice-84114", "payout-run"],
        ),
        ("ci", "deploys", &["production", "staging"]),
        ("laptop", "public", &["example.com/backup"]),
    ] {
        let token = token(app, &owner, label, namespace).await;
        for name in names {
            let name = name.replace('/', "%2F");
            assert!(app.token(&token).acquire(&name).await.verdict());
        }
    }
    app.db
        .execute(
            "UPDATE api_tokens
                SET created_at = clock_timestamp() - interval '1 hour' * (token_id ^ 2 * 41)",
        )
        .await;
    app.db
        .execute(
            "UPDATE api_tokens
                SET last_used_at = clock_timestamp() - interval '13 s' * token_id ^ 3",
        )
        .await;
    app.db
        .execute(
            "UPDATE namespaces
                SET created_at = clock_timestamp() - interval '1 hour' * (namespace_id ^ 2 * 43)",
        )
        .await;
    app.db
        .execute(
            "UPDATE locks
                SET acquired_at = clock_timestamp()
                                  - interval '1 hour' * (fencing_token % 4) * 0.7",
        )
        .await;
    app.db
        .execute(
            "UPDATE locks SET holder = 'worker-3.example.com, process 4711'
              WHERE name = 'payout-run'",
        )
        .await;
}

/// The data of a service with administrators: accounts, an edited plan, an audit log.
async fn administered(app: &TestApp) {
    let admin = account(app, ADMIN, "business", true).await;
    let db = &app.app.db;
    let actor = Actor {
        account_id: Some(admin.account_id),
        name: ADMIN.to_owned(),
        client_ip: Some("192.0.2.44".parse().unwrap()),
        request_id: Some("0198c0de-52a1-7c3e-9b5e-5d0f3f6f2b11".to_owned()),
        means: Means::Browser,
    };
    let mut ids = Vec::new();
    for (email, plan) in [
        ("ada@example.org", "business"),
        ("katherine@example.net", "hobbyist"),
        ("hopper@example.edu", "hobbyist"),
        ("spam-bot-77@example.info", "hobbyist"),
    ] {
        let email: Email = email.parse().unwrap();
        let verified = plan == "business" || email.as_str().starts_with('k');
        let new = NewAccount {
            email: &email,
            password: None,
            plan,
            is_admin: false,
            email_verified: verified,
        };
        ids.push(accounts::create(db, new, None).await.unwrap());
    }
    accounts::set_plan(db, &actor, ids[1], "business")
        .await
        .unwrap();
    plans::update(db, &actor, "business", |limits| {
        limits.max_private_namespaces = 50;
    })
    .await
    .unwrap();
    accounts::suspend(
        db,
        &actor,
        ids[3],
        "Takes and breaks other people's names all night",
    )
    .await
    .unwrap();
    app.db
        .execute(
            "UPDATE accounts
                SET created_at = created_at - interval '1 day' * (40 / account_id - 5)",
        )
        .await;
    app.db
        .execute("UPDATE audit_log SET at = at - interval '1 hour' * (60 / audit_id - 18)")
        .await;
}

/// Pages for everybody.
async fn visitors(app: &TestApp, browser: &Browser, look: impl AsyncFn(&Browser, &'static str)) {
    account(app, OWNER, "business", false).await;
    for (path, name) in [
        ("/", "home"),
        ("/docs", "docs"),
        ("/docs/api", "api-reference"),
        ("/signup", "signup"),
        ("/login", "login"),
        ("/forgot", "forgot"),
        ("/nothing/here", "not-found"),
        ("/verify?link=none", "link-used-up"),
    ] {
        browser.open(path).await;
        look(browser, name).await;
    }
    browser.open("/signup").await;
    browser.fill("#email", "nobody").await;
    browser.fill("#password", "short").await;
    browser.press("Create account").await;
    look(browser, "signup-error").await;
    sign_in_with(browser, OWNER, "not the password").await;
    look(browser, "login-error").await;
    browser.open("/forgot").await;
    browser.fill("#email", OWNER).await;
    browser.press("Send the link").await;
    look(browser, "forgot-sent").await;
    browser
        .open_url(&link_in_mail(app, OWNER, "/reset").await)
        .await;
    look(browser, "reset").await;
}

/// Pages of an account that has just signed up.
async fn beginners(app: &TestApp, browser: &Browser, look: impl AsyncFn(&Browser, &'static str)) {
    let email = "katherine@example.com";
    sign_up(browser, email).await;
    look(browser, "account-new").await;
    for (path, name) in [
        ("/account/namespaces", "namespaces-way-up"),
        ("/account/locks", "locks-none"),
        ("/account/security", "security"),
        ("/account/delete", "delete"),
        ("/admin/accounts", "admin-not-found"),
    ] {
        browser.open(path).await;
        look(browser, name).await;
    }
    browser
        .open_url(&link_in_mail(app, email, "/verify").await)
        .await;
    look(browser, "verify").await;
    browser.open("/account/security").await;
    browser.press("Change password").await;
    look(browser, "security-error").await;
    browser.fill("#email-email", "kate@example.com").await;
    browser.fill("#email-password", PASSWORD).await;
    browser.press("Change address").await;
    browser
        .open_url(&link_in_mail(app, "kate@example.com", "/change-email").await)
        .await;
    look(browser, "change-email").await;
    browser.open("/account").await;
    browser.press("Create token").await;
    look(browser, "account-error").await;
    browser.fill("#token-label", "laptop").await;
    browser.press("Create token").await;
    look(browser, "token-created").await;
}

/// Pages of a Business account.
async fn owners(app: &TestApp, browser: &Browser, look: impl AsyncFn(&Browser, &'static str)) {
    busy(app).await;
    sign_in(browser, OWNER).await;
    look(browser, "account").await;
    for (path, name) in [
        ("/account/namespaces", "namespaces"),
        ("/account/namespaces/billing", "namespace"),
        ("/account/locks", "locks"),
        ("/account/locks?namespace=billing", "locks-filtered"),
    ] {
        browser.open(path).await;
        look(browser, name).await;
    }
    browser.press("Break payout-run").await;
    look(browser, "lock-break").await;
    browser.press("Break lock").await;
    look(browser, "lock-break-error").await;
    browser.open("/account/namespaces").await;
    browser.fill("#namespace-name", "public").await;
    browser.fill("#namespace-lease_ms", "1").await;
    browser.press("Create namespace").await;
    look(browser, "namespaces-error").await;
    browser.open("/account/namespaces/billing").await;
    browser.press("Delete namespace").await;
    look(browser, "namespace-in-use").await;
    browser.open("/account").await;
    browser.press("Manage token ci").await;
    look(browser, "token").await;
    app.db
        .execute("UPDATE plans SET max_private_namespaces = 1 WHERE code = 'business'")
        .await;
    browser.open("/account/namespaces").await;
    look(browser, "namespaces-over").await;
}

/// Pages of an administrator.
async fn administrators(
    app: &TestApp,
    browser: &Browser,
    look: impl AsyncFn(&Browser, &'static str),
) {
    administered(app).await;
    sign_in(browser, ADMIN).await;
    for (path, name) in [
        ("/admin/accounts", "admin-accounts"),
        ("/admin/accounts?q=nobody", "admin-accounts-none"),
        ("/admin/plans", "admin-plans"),
        ("/admin/plans/new", "admin-plan-new"),
        ("/admin/plans/business/edit", "admin-plan"),
        ("/admin/locks", "admin-locks"),
        ("/admin/audit", "admin-audit"),
    ] {
        browser.open(path).await;
        look(browser, name).await;
    }
    browser.open("/admin/accounts").await;
    browser.press("Manage spam-bot-77@example.info").await;
    look(browser, "admin-account-suspended").await;
    browser.open("/admin/accounts").await;
    browser.press("Manage katherine@example.net").await;
    look(browser, "admin-account").await;
    browser.press("Suspend account").await;
    look(browser, "admin-account-error").await;
    browser.open("/admin/audit?account=1").await;
    look(browser, "admin-audit-none").await;
    browser.open("/admin/plans/business/edit").await;
    browser.fill("#plan-lease_max_ms", "many").await;
    browser.press("Save plan").await;
    look(browser, "admin-plan-error").await;
}

macro_rules! accessible {
    ($name:ident, $pages:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let app = TestApp::start().await;
            browse(&app, Script::On, async |browser: &Browser| {
                $pages(&app, browser, accessibility::check).await
            })
            .await;
        }
    };
}
accessible!(pages_for_everybody_are_accessible, visitors);
accessible!(pages_of_a_new_account_are_accessible, beginners);
accessible!(pages_of_a_business_account_are_accessible, owners);
accessible!(pages_of_administrators_are_accessible, administrators);

/// Not a test: takes the pictures.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes pictures of every page for people to look at"]
async fn pictures() {
    macro_rules! take {
        ($pages:ident) => {
            // The examples show a URL such as a real service has.
            let public_url = Some("https://locks.example.com".parse().unwrap());
            let app = TestApp::start_with(|settings| settings.public_url = public_url).await;
            browse(&app, Script::On, async |browser: &Browser| {
                $pages(&app, browser, shoot).await
            })
            .await;
        };
    }
    take!(visitors);
    take!(beginners);
    take!(owners);
    take!(administrators);
}

async fn shoot(browser: &Browser, name: &'static str) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/pictures");
    std::fs::create_dir_all(&folder).unwrap();
    for (scheme, light) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
        browser.scheme(scheme).await;
        for (width, height, device) in [(1280, 800, "desktop"), (390, 844, "phone")] {
            browser.resize(width, height).await;
            let picture = browser.picture().await;
            std::fs::write(folder.join(format!("{name}-{device}-{light}.png")), picture).unwrap();
        }
    }
    browser.scheme(Scheme::Light).await;
    browser.resize(1280, 900).await;
}

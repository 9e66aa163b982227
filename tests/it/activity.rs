//! The activity of accounts in the database, below pages and API.

use std::net::IpAddr;
use std::time::Duration;

use chrono::Utc;
use futures_util::future::join_all;
use lockable::activity::{self, Author, Entry, MAX_FAILED_SIGN_INS_A_DAY, SignInFailure};
use lockable::audit::{Actor, Means};
use lockable::id::{AccountId, NamespaceId, TokenId};
use lockable::locks::{self, LockName};
use lockable::namespaces::{self, NamespaceError};
use lockable::tokens::{self, EmailConfirmation, NewToken, Scope, TokenError};
use serde_json::{Value, json};

use crate::support::app::TestAccount;
use crate::support::prelude::*;

const CLIENT_IP: &str = "192.0.2.7";

fn client_ip() -> IpAddr {
    CLIENT_IP.parse().unwrap()
}

/// The entries of an account, the oldest first.
pub(crate) async fn entries(db: &Database, account_id: AccountId) -> Vec<Entry> {
    let mut entries = activity::list(&db.pool, account_id, None, 1000)
        .await
        .unwrap();
    entries.reverse();
    entries
}

/// What was done in each entry, and to what.
fn acts(entries: &[Entry]) -> Vec<(&str, &str)> {
    entries
        .iter()
        .map(|entry| (entry.action.as_str(), entry.subject.as_str()))
        .collect()
}

/// The account, as it acts with one of its tokens.
fn with_token(account: &TestAccount, token_id: TokenId) -> Actor {
    Actor {
        account_id: Some(account.id),
        name: account.email.clone(),
        client_ip: Some(client_ip()),
        request_id: None,
        means: Means::Token(token_id),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_on_tokens_and_namespaces_are_recorded_with_the_token_that_did_them() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let (pool, before) = (&app.db.pool, Utc::now());
    let (manager_id, manager) = account.token_with("public", Scope::Manage, None).await;
    let actor = with_token(&account, manager_id);
    let row = account.row().await;
    namespaces::create(pool, &actor, &row, "builds", Some(5000))
        .await
        .unwrap();
    let new = NewToken {
        label: " nightly ",
        namespace: "builds",
        scope: Scope::Locks,
        expires_at: None,
    };
    let confirmation = EmailConfirmation::NotRequired;
    let (token_id, secret) = tokens::create(pool, &actor, &row, confirmation, &new)
        .await
        .unwrap();
    let hour = Duration::from_secs(3600);
    let (next_id, next) = tokens::rotate(pool, &actor, &row, token_id, hour)
        .await
        .unwrap();
    tokens::revoke(pool, &actor, account.id, token_id)
        .await
        .unwrap();
    for lease_ms in [None, None, Some(7000)] {
        namespaces::set_lease_default(pool, &actor, &row, "builds", lease_ms)
            .await
            .unwrap();
    }
    namespaces::delete(pool, &actor, account.id, "builds")
        .await
        .unwrap();

    let all = entries(&app.db, account.id).await;
    let expected = [
        ("token.create", "token:test"),
        ("namespace.create", "namespace:builds"),
        ("token.create", "token:nightly"),
        ("token.rotate", "token:nightly"),
        ("token.revoke", "token:nightly"),
        ("namespace.set-lease", "namespace:builds"),
        ("namespace.set-lease", "namespace:builds"),
        ("namespace.delete", "namespace:builds"),
    ];
    assert_eq!(acts(&all), expected, "a repeated setting changes nothing");
    let hint = |secret: &lockable::secret::Secret| secret.expose()[32..].to_owned();
    let details: Vec<Value> = all
        .iter()
        .map(|entry| entry.details.clone().unwrap())
        .collect();
    let (old_id, new_id) = (token_id.to_string(), next_id.to_string());
    assert_eq!(details[1], json!({"lease_ms": 5000}));
    assert_eq!(
        details[2],
        json!({"token_id": old_id, "hint": hint(&secret), "namespace": "builds", "scope": "locks",
               "expires_at": null})
    );
    assert_eq!(
        details[3],
        json!({"token_id": old_id, "successor_id": new_id, "successor_hint": hint(&next),
               "overlap_ms": 3_600_000})
    );
    assert_eq!(
        details[4],
        json!({"token_id": old_id, "hint": hint(&secret)})
    );
    assert_eq!(details[5], json!({"before": 5000, "after": null}));
    assert_eq!(details[6], json!({"before": null, "after": 7000}));
    assert_eq!(details[7], json!({"tokens": 1}));
    for entry in &all[1..] {
        assert_eq!((&*entry.author, &*entry.means), ("owner", "token"));
        assert_eq!(entry.token_label.as_deref(), Some("test"));
        assert_eq!(entry.token_hint.as_deref(), Some(&*hint(&manager)));
        assert_eq!(entry.client_ip.as_deref(), Some(CLIENT_IP));
        assert!(before <= entry.at && entry.at <= Utc::now(), "{entry:?}");
    }
    let text: String = app
        .db
        .value("SELECT string_agg(a::text, ' ') FROM account_activity a")
        .await;
    for secret in [&manager, &secret, &next] {
        assert!(!text.contains(secret.expose()), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_deletes_its_own_namespace_is_recorded_all_the_same() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    account.namespace("mine").await;
    let (token_id, _) = account.token_with("mine", Scope::Manage, None).await;
    let actor = with_token(&account, token_id);
    namespaces::delete(&app.db.pool, &actor, account.id, "mine")
        .await
        .unwrap();
    let all = entries(&app.db, account.id).await;
    let last = all.last().unwrap();
    assert_eq!(
        (&*last.action, last.token_label.as_deref()),
        ("namespace.delete", Some("test"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_act_that_is_refused_leaves_no_entry() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let token = account.private("builds").await;
    let (pool, row) = (&app.db.pool, account.row().await);
    let actor = with_token(&account, TokenId(1));
    assert!(app.token(&token).acquire("job").await.verdict());
    let before = entries(&app.db, account.id).await.len();
    let taken = namespaces::create(pool, &actor, &row, "builds", None).await;
    assert!(matches!(taken, Err(NamespaceError::Taken)), "{taken:?}");
    let lease = namespaces::create(pool, &actor, &row, "other", Some(1)).await;
    assert!(matches!(lease, Err(NamespaceError::Lease(_))), "{lease:?}");
    let in_use = namespaces::delete(pool, &actor, account.id, "builds").await;
    assert!(matches!(in_use, Err(NamespaceError::InUse)), "{in_use:?}");
    let unknown = namespaces::set_lease_default(pool, &actor, &row, "other", None).await;
    assert!(
        matches!(unknown, Err(NamespaceError::Unknown)),
        "{unknown:?}"
    );
    let unknown = tokens::revoke(pool, &actor, account.id, TokenId(77)).await;
    assert!(matches!(unknown, Err(TokenError::Unknown)), "{unknown:?}");
    let long = tokens::MAX_OVERLAP + Duration::from_millis(1);
    let long = tokens::rotate(pool, &actor, &row, TokenId(1), long).await;
    assert!(matches!(long, Err(TokenError::InvalidOverlap)), "{long:?}");
    assert_eq!(entries(&app.db, account.id).await.len(), before);
    let namespaces = namespaces::list(pool, account.id).await.unwrap();
    assert_eq!(namespaces.len(), 2, "a refused lease creates no namespace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_an_administrator_and_stands_in_the_audit_log_too() {
    let app = TestApp::start().await;
    let account = app.account("hobbyist").await;
    let new = NewToken {
        label: "made for them",
        namespace: "public",
        scope: Scope::Manage,
        expires_at: Some(Utc::now() + Duration::from_secs(3600)),
    };
    let (command, row) = (Actor::command("root"), account.row().await);
    tokens::create_for(&app.db.pool, &command, &row, &new)
        .await
        .unwrap();
    let all = entries(&app.db, account.id).await;
    assert_eq!(acts(&all), [("token.create", "token:made for them")]);
    let entry = &all[0];
    assert_eq!(
        (&*entry.author, &*entry.means),
        ("administrator", "command")
    );
    assert_eq!((&entry.client_ip, &entry.token_label), (&None, &None));
    let expires_at = entry.details.as_ref().unwrap()["expires_at"].clone();
    let expires_at = expires_at.as_str().unwrap();
    assert!(
        expires_at.ends_with('Z') && expires_at.len() == 24,
        "{expires_at}"
    );
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'token.create'";
    assert_eq!(app.db.value::<i64>(audited).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_lease_is_recorded_for_the_account_that_held_it() {
    let app = TestApp::start().await;
    let (holder, admin) = (app.account("hobbyist").await, app.administrator().await);
    let client = app.token(&holder.token().await);
    let first = client.acquire("a").await.number("lockable-fencing-token");
    let second = client.acquire("b").await.number("lockable-fencing-token");
    let mut administrator = with_token(&admin, TokenId(1));
    administrator.means = Means::Browser;
    let (a, b) = (LockName::new("a").unwrap(), LockName::new("b").unwrap());
    locks::break_any(&app.db.pool, &administrator, &a, "it hangs")
        .await
        .unwrap();
    let (token_id, _) = holder.token_with("public", Scope::Manage, None).await;
    let public = (NamespaceId::PUBLIC, "public");
    let owner = with_token(&holder, token_id);
    locks::break_own(
        &app.db.pool,
        &owner,
        holder.id,
        public,
        &b,
        second,
        "mine hangs",
    )
    .await
    .unwrap();

    let all = entries(&app.db, holder.id).await;
    let breaks: Vec<&Entry> = all
        .iter()
        .filter(|entry| entry.action == "lock.break")
        .collect();
    let [by_admin, by_owner] = breaks[..] else {
        panic!("{all:?}");
    };
    assert_eq!(
        (&*by_admin.author, &*by_admin.means, &*by_admin.subject),
        ("administrator", "browser", "lock:public/a")
    );
    assert_eq!(by_admin.client_ip, None, "it is the administrator's own");
    assert_eq!(
        by_admin.details,
        Some(json!({"fencing_token": first, "reason": "it hangs"}))
    );
    assert_eq!(
        (&*by_owner.author, &*by_owner.means, &*by_owner.subject),
        ("owner", "token", "lock:public/b")
    );
    assert_eq!(by_owner.client_ip.as_deref(), Some(CLIENT_IP));
    assert_eq!(by_owner.token_label.as_deref(), Some("test"));
    assert_eq!(entries(&app.db, admin.id).await.len(), 0);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'lock.break'";
    assert_eq!(app.db.value::<i64>(audited).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_token_is_not_shown_to_others() {
    let app = TestApp::start().await;
    let (holder, admin) = (app.account("hobbyist").await, app.administrator().await);
    let client = app.token(&holder.token().await);
    assert!(client.acquire("a").await.verdict());
    let (token_id, _) = admin.token_with("public", Scope::Manage, None).await;
    let (actor, name) = (with_token(&admin, token_id), LockName::new("a").unwrap());
    locks::break_any(&app.db.pool, &actor, &name, "it hangs")
        .await
        .unwrap();
    let all = entries(&app.db, holder.id).await;
    let entry = all.last().unwrap();
    assert_eq!((&*entry.author, &*entry.means), ("administrator", "token"));
    assert_eq!(
        (&entry.token_label, &entry.token_hint, &entry.client_ip),
        (&None, &None, &None)
    );
}

async fn fail(db: &Database, account_id: AccountId) {
    let (visitor, failure) = (Author::visitor(client_ip()), SignInFailure::WrongPassword);
    activity::record_failed_sign_in(&db.pool, account_id, visitor, failure)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_cannot_fill_the_table() {
    let app = TestApp::start().await;
    let (account, other) = (app.account("hobbyist").await, app.account("hobbyist").await);
    // At once, because a guesser does not wait.
    join_all((0..50).map(|_| fail(&app.db, account.id))).await;
    fail(&app.db, other.id).await;
    let most = usize::try_from(MAX_FAILED_SIGN_INS_A_DAY).unwrap();
    let all = entries(&app.db, account.id).await;
    assert_eq!(all.len(), most);
    let first = all[0].details.clone().unwrap();
    assert_eq!(first, json!({"reason": "wrong-password"}));
    let last = all[most - 1].details.clone().unwrap();
    assert_eq!(
        (&last["reason"], &last["more"]),
        (&json!("wrong-password"), &json!(50 - most))
    );
    let last_at = last["last_at"].as_str().unwrap();
    let last_at = last_at.parse::<chrono::DateTime<Utc>>().unwrap();
    // Written with three digits of a second.
    assert!(last_at + Duration::from_millis(1) >= all[most - 1].at && last_at <= Utc::now());
    for entry in &all {
        assert_eq!(
            (&*entry.action, &*entry.author, &*entry.subject),
            ("account.sign-in-failed", "visitor", &*account.email)
        );
        assert_eq!(entry.client_ip.as_deref(), Some(CLIENT_IP));
    }
    assert_eq!(entries(&app.db, other.id).await.len(), 1, "each its own");

    // Those of yesterday do not count.
    app.db
        .execute("UPDATE account_activity SET at = at - interval '25 h'")
        .await;
    fail(&app.db, account.id).await;
    assert_eq!(entries(&app.db, account.id).await.len(), most + 1);
    // A sign-in of an account that is gone is recorded nowhere.
    fail(&app.db, AccountId(0)).await;
    let strangers = "SELECT count(*) FROM account_activity WHERE account_id = 0";
    assert_eq!(app.db.value::<i64>(strangers).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_list_show_each_entry_once_and_the_newest_first() {
    let app = TestApp::start().await;
    let (account, other) = (app.account("hobbyist").await, app.account("hobbyist").await);
    for number in 0..25 {
        let owner = if number % 5 == 4 { &other } else { &account };
        app.db
            .execute(&format!(
                "INSERT INTO account_activity (account_id, action, author, means, subject)
                 VALUES ({}, 'token.create', 'owner', 'browser', 'token:{number}')",
                owner.id
            ))
            .await;
    }
    let mut seen = Vec::new();
    let mut before_id = None;
    loop {
        let page = activity::list(&app.db.pool, account.id, before_id, 7)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        before_id = Some(last.activity_id);
        seen.extend(page.into_iter().map(|entry| entry.subject));
    }
    let expected: Vec<_> = (0..25)
        .rev()
        .filter(|number| number % 5 != 4)
        .map(|number| format!("token:{number}"))
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_deleted_after_90_days_and_with_their_account() {
    let app = TestApp::start().await;
    let (account, other) = (app.account("hobbyist").await, app.account("hobbyist").await);
    app.db
        .execute(&format!(
            "INSERT INTO account_activity (account_id, at, action, author, means, subject)
             SELECT {}, clock_timestamp() - make_interval(days => days), 'token.create', 'owner',
                    'browser', 'token:x'
               FROM unnest(ARRAY[91, 89]) days, generate_series(1, 1500)",
            account.id
        ))
        .await;
    // More than one batch.
    assert_eq!(activity::sweep(&app.db.pool).await.unwrap(), 1500);
    assert_eq!(activity::sweep(&app.db.pool).await.unwrap(), 0);
    let left = "SELECT count(*) FROM account_activity";
    assert_eq!(app.db.value::<i64>(left).await, 1500);

    fail(&app.db, other.id).await;
    lockable::accounts::delete(&app.db.pool, account.id)
        .await
        .unwrap();
    assert_eq!(app.db.value::<i64>(left).await, 1);
}

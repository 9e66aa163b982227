//! Accounts and tokens in the database, below pages and API.

use lockable::accounts::{self, AccountError, Email, NewAccount};
use lockable::id::AccountId;
use lockable::tokens;
use lockable::tokens::Scope;

use crate::support::prelude::*;

async fn create(db: &Database, email: &str) -> Result<AccountId, AccountError> {
    let email: Email = email.parse().unwrap();
    let new = NewAccount {
        email: &email,
        password: None,
        plan: "hobbyist",
        is_admin: false,
        email_verified: true,
    };
    accounts::create(&db.pool, new, None).await
}

async fn find(db: &Database, email: &str) -> Option<AccountId> {
    let found = accounts::find_by_email(&db.pool, &email.parse().unwrap()).await;
    found.ok().map(|account| account.account_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_found_by_its_mailbox_and_by_no_other() {
    let db = Database::create().await;
    let kate = create(&db, "Kate@Example.com").await.unwrap();
    let kelvin = create(&db, "\u{212a}ate@example.com").await.unwrap();
    let umlauts = create(&db, "a@Bücher.example").await.unwrap();
    assert_eq!(find(&db, "kATE@EXAMPLE.COM").await, Some(kate));
    assert_eq!(find(&db, "\u{212a}ATE@example.com").await, Some(kelvin));
    assert_eq!(find(&db, "A@xn--bcher-kva.example").await, Some(umlauts));
    for taken in [
        "kate@example.com",
        "\u{212a}ate@EXAMPLE.com",
        "a@bu\u{308}cher.example",
    ] {
        assert!(
            matches!(create(&db, taken).await, Err(AccountError::EmailTaken)),
            "{taken}"
        );
    }
    for (text, expected) in [
        ("KATE@", vec![kate]),
        ("BüCHER", vec![umlauts]),
        ("xn--BCHER", vec![umlauts]),
    ] {
        let filter = accounts::store::Filter {
            text: Some(text.to_owned()),
            ..Default::default()
        };
        let found = accounts::search(&db.pool, &filter, 10).await.unwrap();
        let found: Vec<_> = found.iter().map(|account| account.account_id).collect();
        assert_eq!(found, expected, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_an_earlier_version_are_refreshed() {
    let db = Database::create().await;
    let kate = create(&db, "kate@example.com").await.unwrap();
    let umlauts = create(&db, "Ärger@Bücher.example").await.unwrap();
    // Two accounts of one mailbox, as an earlier version allowed them.
    let first = create(&db, "a@bücher.example").await.unwrap();
    let second = create(&db, "b@bücher.example").await.unwrap();
    for (account_id, email, key) in [
        (umlauts, "Ärger@Bücher.example", "ärger@bücher.example"),
        (first, "a@bücher.example", "a@bücher.example"),
        (second, "a@BÜCHER\u{2e}example", "a@xn--bcher-kva.example"),
    ] {
        db.execute(&format!(
            "UPDATE accounts SET email = '{email}', email_key = '{key}'
              WHERE account_id = {account_id}"
        ))
        .await;
    }
    assert_eq!(find(&db, "Ärger@bücher.example").await, None);
    accounts::refresh_email_keys(&db.pool).await.unwrap();
    assert_eq!(find(&db, "Ärger@bücher.example").await, Some(umlauts));
    assert_eq!(
        find(&db, "a@bücher.example").await,
        Some(second),
        "it has the key already"
    );
    assert_eq!(find(&db, "kate@example.com").await, Some(kate));
    let first_key: String = db
        .value(&format!(
            "SELECT email_key FROM accounts WHERE account_id = {first}"
        ))
        .await;
    assert_eq!(first_key, "a@bücher.example");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_tokens_are_deleted_after_90_days_and_no_others() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let mut token_ids = Vec::new();
    for _ in 0..3 {
        let (token_id, _) = account.token_with("public", Scope::Locks, None).await;
        token_ids.push(token_id);
    }
    for (token_id, days) in token_ids.iter().zip([91, 89]) {
        app.db
            .execute(&format!(
                "UPDATE api_tokens SET revoked_at = clock_timestamp() - interval '{days} days'
                  WHERE token_id = {token_id}"
            ))
            .await;
    }
    // Unused for long, but not revoked.
    app.db
        .execute(&format!(
            "UPDATE api_tokens SET created_at = '2020-01-01' WHERE token_id = {}",
            token_ids[2]
        ))
        .await;
    assert_eq!(tokens::sweep(&app.db.pool).await.unwrap(), 1);
    let left: Vec<i64> = app
        .db
        .value("SELECT array_agg(token_id ORDER BY token_id) FROM api_tokens")
        .await;
    assert_eq!(left, [token_ids[1].0, token_ids[2].0]);
}

//! `lockable admin token`.

use lockable::secret::Secret;
use uuid::Uuid;

use super::{failed, succeeded};
use crate::activity::entries;
use crate::support::prelude::*;
use crate::support::process::lockable;

#[tokio::test(flavor = "multi_thread")]
async fn a_command_makes_a_token_that_manages_its_account() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let run = |arguments: &[&str]| {
        lockable()
            .args(["admin", "token", "create", "--email", &account.email])
            .args(arguments)
            .env("DATABASE_URL", app.db.url())
            .arg("--unsafe-database")
            .output()
            .unwrap()
    };
    let printed = succeeded(&run(&["--scope", "manage", "--label", "terraform"]));
    let token = printed.trim();
    assert!(Uuid::parse_str(token).is_ok(), "{printed}");
    let expected = ("manage".to_owned(), "terraform".to_owned());
    let made: (String, String) = sqlx::query_as("SELECT scope, label FROM api_tokens")
        .fetch_one(&app.db.pool)
        .await
        .unwrap();
    assert_eq!(made, expected);
    let client = app.token(&Secret::new(token));
    assert!(client.acquire("job").await.verdict());

    let all = entries(&app.db, account.id).await;
    let [entry] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(
        (&*entry.action, &*entry.author, &*entry.means),
        ("token.create", "administrator", "command")
    );
    assert_eq!(entry.subject, "token:terraform");
    assert_eq!(entry.details.as_ref().unwrap()["scope"], "manage");
    let (actor, scope): (String, String) =
        sqlx::query_as("SELECT actor, after ->> 'scope' FROM audit_log")
            .fetch_one(&app.db.pool)
            .await
            .unwrap();
    assert!(
        actor.starts_with("command:") && scope == "manage",
        "{actor}"
    );

    let said = failed(&run(&["--scope", "all"]), 2);
    assert!(said.contains("`locks` or `manage`"), "{said}");
}

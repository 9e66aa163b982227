//! Authorization: every call of version 1 with every kind of credentials that must be refused, and
//! how soon a change reaches all nodes.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use lockable::accounts;
use lockable::api::calls::CALLS;
use lockable::audit::Actor;
use lockable::tokens::Scope;
use reqwest::{Method, RequestBuilder};
use uuid::Uuid;

use crate::support::client::{Answer, Client, send};
use crate::support::prelude::*;
use crate::support::proxy::Flow;

/// Adds credentials to a request.
type Credentials = Box<dyn Fn(RequestBuilder) -> RequestBuilder>;

fn basic(user: &(impl ToString + ?Sized), password: Option<&'static str>) -> Credentials {
    let user = user.to_string();
    Box::new(move |request| request.basic_auth(&user, password))
}

fn header(value: &'static str) -> Credentials {
    Box::new(move |request| request.header("authorization", value))
}

async fn send_with(
    client: &Client,
    path: &str,
    method: &Method,
    credentials: &Credentials,
) -> Answer {
    send(credentials(client.request(method.clone(), path))).await
}

/// The tables have all calls: no route of the API's router acts on a lock. The calls of version 2
/// are in its description, which `v2::matrix` walks.
#[test]
fn no_endpoint_escapes() {
    let router = include_str!("../../src/api/mod.rs");
    let all = router.matches(".route(").count();
    assert!(all > 0);
    let harmless = router.matches("any(no_such_call))").count()
        + router
            .matches(".route(\"/openapi.json\", get(get_text))")
            .count();
    assert_eq!(all, harmless, "give every call its place in CALLS");
    let version_2 = include_str!("../../src/api/v2/mod.rs");
    assert_eq!(
        version_2.matches(".route(").count(),
        0,
        "collect every call with `routes!`, which describes it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_the_right_changes_nothing() {
    let app = TestApp::start().await;
    let client = app.anonymous();
    let actor = Actor::command("test");

    let holder = app.account("business").await;
    let token = holder.token().await;
    let lease_id = Uuid::new_v4();
    assert!(app.token(&token).acquire("held").await.verdict());
    assert!(
        app.token(&token)
            .acquire(&format!("proved?lease_id={lease_id}"))
            .await
            .verdict()
    );

    let (revoked_id, revoked) = holder.token_with("public", Scope::Locks, None).await;
    holder.revoke(revoked_id).await;
    let expires_at = Some(Utc::now() + TimeDelta::milliseconds(700));
    let (_, expired) = holder.token_with("public", Scope::Locks, expires_at).await;
    let suspended_account = app.account("hobbyist").await;
    let suspended = suspended_account.token().await;
    accounts::suspend(&app.app.db, &actor, suspended_account.id, "test")
        .await
        .unwrap();
    let deleted_account = app.account("hobbyist").await;
    let deleted = deleted_account.token().await;
    app.db
        .execute(&format!(
            "UPDATE accounts SET deleting_since = now() WHERE account_id = {}",
            deleted_account.id.0
        ))
        .await;
    eventually("the token expires", async || {
        (app.token(&expired).heartbeat("x").await.status == 401).then_some(())
    })
    .await;

    let nobody: Vec<(&str, Credentials)> = vec![
        ("no token", Box::new(|request| request)),
        ("no scheme", header("5b0c9f2e-7d44-4a7e-9d5a-0c4f6d9a8b11")),
        ("another scheme", header("Digest username=x")),
        ("not base64", header("Basic !!!")),
        ("no UUID", basic("secret", Some(""))),
        ("a password", basic(token.expose(), Some("x"))),
        ("unknown", basic(&Uuid::new_v4(), Some(""))),
        ("revoked", basic(revoked.expose(), Some(""))),
        ("expired", basic(expired.expose(), Some(""))),
        ("suspended account", basic(suspended.expose(), Some(""))),
        ("account being deleted", basic(deleted.expose(), Some(""))),
    ];
    // All but the mark that a release of an id without a lease leaves behind.
    let rows = "SELECT string_agg((to_jsonb(l) - 'mark_token')::text, '|' ORDER BY name)
                  FROM locks l";
    let before: String = app.db.value(rows).await;
    for (who, credentials) in &nobody {
        for call in CALLS {
            let endpoint = call.prefix();
            for name in ["held", "free", &format!("proved?lease_id={lease_id}")] {
                for method in call.methods {
                    let answer =
                        send_with(&client, &format!("{endpoint}{name}"), method, credentials).await;
                    assert_eq!(
                        answer.status, 401,
                        "{who}: {method} {endpoint}{name}: {answer:?}"
                    );
                    assert_eq!(
                        answer.header("www-authenticate"),
                        Some("Basic realm=\"lockable\""),
                        "{who}"
                    );
                    assert_eq!(answer.header("cache-control"), Some("no-store"), "{who}");
                    assert!(answer.json()["code"].is_string(), "{who}: {answer:?}");
                }
            }
        }
    }
    assert_eq!(
        app.db.value::<String>(rows).await,
        before,
        "nothing changed"
    );

    // Tokens of other accounts and namespaces are answered, but about locks of their own.
    let other = app.account("business").await;
    let strangers = [
        ("another account", other.token().await, false),
        (
            "another account's namespace",
            other.private("team").await,
            true,
        ),
        (
            "another namespace of the same account",
            holder.private("team").await,
            true,
        ),
    ];
    for (who, stranger, free_for_them) in strangers {
        let stranger = app.token(&stranger);
        for name in ["held", &format!("proved?lease_id={lease_id}")] {
            assert!(!stranger.heartbeat(name).await.verdict(), "{who}");
            assert_eq!(
                stranger.acquire(name).await.verdict(),
                free_for_them,
                "{who}: {name}"
            );
            // They release what they took in a namespace of their own, and nothing else.
            assert_eq!(
                stranger.release(name).await.verdict(),
                free_for_them,
                "{who}: {name}"
            );
        }
    }
    let held: String = app
        .db
        .value(&format!("{rows} WHERE namespace_id = 1"))
        .await;
    assert_eq!(held, before, "nothing changed");

    // With the holder's token each of these calls has an effect.
    let holder = app.token(&token);
    assert!(holder.heartbeat("held").await.verdict());
    assert!(holder.release("held").await.verdict());
    assert!(
        holder
            .release(&format!("proved?lease_id={lease_id}"))
            .await
            .verdict()
    );
}

/// Waits until all nodes answer a heartbeat with this status.
async fn until_status(
    nodes: &[&TestApp],
    token: &lockable::secret::Secret,
    wanted: u16,
    what: &str,
) {
    for node in nodes {
        eventually(what, async || {
            (node.token(token).heartbeat("x").await.status == wanted).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_reaches_all_nodes() {
    let app = TestApp::start().await;
    let other = app.another_node().await;
    let nodes = [&app, &other];
    let actor = Actor::command("test");
    let account = app.account("business").await;
    let (token_id, token) = account.token_with("public", Scope::Locks, None).await;
    let lasting = account.token().await;
    for node in nodes {
        eventually("notices arrive", async || {
            node.app.changes.is_current().then_some(())
        })
        .await;
    }

    until_status(&nodes, &token, 200, "the token works").await;
    account.revoke(token_id).await;
    until_status(&nodes, &token, 401, "a revoked token is refused").await;
    until_status(&nodes, &lasting, 200, "the other works").await;
    accounts::suspend(&app.app.db, &actor, account.id, "test")
        .await
        .unwrap();
    until_status(&nodes, &lasting, 401, "a suspended account is refused").await;
    accounts::restore(&app.app.db, &actor, account.id)
        .await
        .unwrap();
    until_status(&nodes, &lasting, 200, "a restored one is not").await;

    // A plan's edit, an account's change of plan, a namespace's lease: each shows in the next
    // grant's length.
    let length = async |node: &TestApp| {
        let answer = node
            .token(&lasting)
            .acquire(&Uuid::new_v4().to_string())
            .await;
        answer.header("lockable-lease-ms").map(str::to_owned)
    };
    for (change, expected) in [
        (
            "UPDATE plans SET lease_default_ms = 61000 WHERE code = 'business'",
            "61000",
        ),
        ("UPDATE accounts SET lease_default_ms = 62000", "62000"),
        ("UPDATE accounts SET lease_default_ms = NULL", "61000"),
        (
            "UPDATE accounts SET plan_id = (SELECT plan_id FROM plans WHERE code = 'hobbyist')",
            "60000",
        ),
    ] {
        app.db.execute(change).await;
        for node in nodes {
            eventually(change, async || {
                (length(node).await.as_deref() == Some(expected)).then_some(())
            })
            .await;
        }
    }

    // With the table of tokens out of reach, cached callers are still answered.
    until_status(&nodes, &lasting, 200, "it is in their memory").await;
    app.db
        .execute("ALTER TABLE api_tokens RENAME TO api_tokens_hidden")
        .await;
    for node in nodes {
        assert_eq!(
            node.token(&lasting).heartbeat("x").await.status,
            200,
            "not a query for each request"
        );
    }
}

/// A node that receives no notices does not use its cache.
#[tokio::test(flavor = "multi_thread")]
async fn without_notices_a_node_looks_every_token_up() {
    for hangs in [true, false] {
        let db = Arc::new(Database::create().await);
        let proxy = Proxy::to(&db).await;
        let node = TestApp::start_through(&db, &proxy).await;
        let account = node.account("hobbyist").await;
        let (token_id, token) = account.token_with("public", Scope::Locks, None).await;
        eventually("notices arrive", async || {
            node.app.changes.is_current().then_some(())
        })
        .await;
        until_status(&[&node], &token, 200, "the token works").await;

        proxy.only("lockable changes");
        if hangs {
            proxy.answers(Flow::Freeze);
        } else {
            proxy.answers(Flow::Drop);
            proxy.cut();
        }
        account.revoke(token_id).await;
        until_status(&[&node], &token, 401, "the revoked token is refused").await;
        // And not because the news came. A sign of life from just before counts for a second from
        // when it was asked for, and a busy machine may deliver it late.
        eventually("the node knows that it misses notices", async || {
            (!node.app.changes.is_current()).then_some(())
        })
        .await;
        // Valid tokens still work; slower, because each request looks its token up.
        let lasting = account.token().await;
        assert_eq!(node.token(&lasting).heartbeat("x").await.status, 200);
        // The changes in between count when notices arrive again.
        proxy.mend();
        eventually("notices arrive again", async || {
            node.app.changes.is_current().then_some(())
        })
        .await;
        assert_eq!(node.token(&token).heartbeat("x").await.status, 401);
        assert_eq!(node.token(&lasting).heartbeat("x").await.status, 200);
    }
}

/// A look-up that read before a change and returns after it leaves nothing in the cache.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_look_at_a_token_does_not_outlive_its_revocation() {
    let node = TestApp::start().await;
    let account = node.account("hobbyist").await;
    let (token_id, token) = account.token_with("public", Scope::Locks, None).await;
    eventually("notices arrive", async || {
        node.app.changes.is_current().then_some(())
    })
    .await;

    // Every query of a plan now waits at a gate, after the instant of its snapshot.
    node.db
        .execute(
            "CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS $$
               BEGIN
                 PERFORM pg_advisory_lock_shared(1);
                 PERFORM pg_advisory_unlock_shared(1);
                 RETURN true;
               END $$;
             ALTER TABLE plans RENAME TO plans_behind;
             CREATE VIEW plans AS SELECT * FROM plans_behind WHERE gate()",
        )
        .await;
    let mut keeper = node.db.connect().await;
    sqlx::query("SELECT pg_advisory_lock(1)")
        .execute(&mut keeper)
        .await
        .unwrap();
    let slow = tokio::spawn({
        let client = node.token(&token);
        async move { client.heartbeat("x").await }
    });
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity
                         WHERE datname = current_database() AND wait_event = 'advisory'
                           AND query LIKE '/* tokens.find_caller %')";
    eventually("the look is at the gate", async || {
        node.db.value::<bool>(waits).await.then_some(())
    })
    .await;
    account.revoke(token_id).await;
    // Time for the notice to arrive. If it takes longer, the entry is there and the notice drops
    // it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    sqlx::query("SELECT pg_advisory_unlock(1)")
        .execute(&mut keeper)
        .await
        .unwrap();
    assert_eq!(
        slow.await.unwrap().status,
        200,
        "it was asked before the revocation"
    );
    for _ in 0..20 {
        assert_eq!(node.token(&token).heartbeat("x").await.status, 401);
    }
}

//! Leases that are ended by force.

use lockable::tokens::Scope;
use serde_json::{Value, json};

use super::kit::*;

async fn owner(app: &TestApp) -> (Locks, Locks) {
    let account = app.account("business").await;
    let token = account.private("jobs").await;
    let (_, manage) = account.token_with("jobs", Scope::Manage, None).await;
    (
        Locks::new(app, &token, "jobs"),
        Locks::new(app, &manage, "jobs"),
    )
}

fn named(lease: &Value) -> Value {
    json!({"lease_id": lease["lease_id"], "fencing_token": lease["fencing_token"]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_broken_by_token_or_id_and_never_the_next_one() {
    let app = TestApp::start().await;
    let (locks, owner) = owner(&app).await;
    for kind in [json!({}), json!({"limit": 2}), json!({"mode": "shared"})] {
        for field in ["fencing_token", "lease_id"] {
            let lease = locks.lease("job", &kind).await;
            let asked = json!({"reason": "stuck", field: lease[field]});
            let answer = owner.call("job", "break", &asked).await;
            assert_eq!(
                answer.json(),
                json!({"broken": [named(&lease)]}),
                "{answer:?}"
            );
            let lost = refused(
                &locks
                    .call("job", "heartbeat", &id(&lease["lease_id"]))
                    .await,
            );
            assert_eq!(
                (&*lost.1, &lost.2["reason"]),
                ("lease-lost", &json!("broken"))
            );
            // Repeated, while another has the lock: the same answer, and it keeps the lock.
            let next = locks.lease("job", &kind).await;
            let answer = owner.call("job", "break", &asked).await;
            assert_eq!(
                answer.json(),
                json!({"broken": [named(&lease)]}),
                "{answer:?}"
            );
            let renewed = locks.call("job", "heartbeat", &id(&next["lease_id"])).await;
            assert_eq!(renewed.status, 200, "{renewed:?}");
            locks.call("job", "release", &id(&next["lease_id"])).await;
        }
    }
    let unknown = json!({"reason": "stuck", "fencing_token": 9_007_199_254_740_991_i64});
    let lost = refused(&owner.call("job", "break", &unknown).await);
    assert_eq!((lost.0, &*lost.1), (409, "lease-lost"));
    let acts: i64 = app
        .db
        .value("SELECT count(*) FROM audit_log WHERE action = 'lock.break' AND reason = 'stuck'")
        .await;
    assert_eq!(acts, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_permits_are_broken_at_once() {
    let app = TestApp::start().await;
    let (locks, owner) = owner(&app).await;
    let asked = json!({"limit": 5});
    let first = locks.lease("pool", &asked).await;
    let second = locks.lease("pool", &asked).await;
    let all = json!({"reason": "stuck", "all": true});
    let broken = owner.call("pool", "break", &all).await.json();
    assert_eq!(broken, json!({"broken": [named(&first), named(&second)]}));
    let broken = owner.call("pool", "break", &all).await.json();
    assert_eq!(broken, json!({"broken": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_needs_the_scope_a_reason_and_one_target() {
    let app = TestApp::start().await;
    let (locks, owner) = owner(&app).await;
    let lease = locks.lease("job", &json!({})).await;
    let token = lease["fencing_token"].clone();
    let good = json!({"reason": "stuck", "fencing_token": token});
    let answer = locks.call("job", "break", &good).await;
    assert_eq!(answer.problem(), (403, "scope-required".to_owned()));
    for bad in [
        json!({"reason": "stuck"}),
        json!({"reason": "stuck", "all": false}),
        json!({"reason": "stuck", "all": true, "fencing_token": token}),
        json!({"reason": "stuck", "lease_id": lease["lease_id"], "fencing_token": token}),
        json!({"fencing_token": token}),
        json!({"reason": " ", "fencing_token": token}),
        json!({"reason": "x".repeat(501), "fencing_token": token}),
    ] {
        let answer = owner.call("job", "break", &bad).await;
        assert_eq!(answer.problem(), (400, "invalid-body".to_owned()), "{bad}");
    }
    assert_eq!(locks.lock("job").await["state"], "held");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_public_only_administrators_break_the_leases_of_others() {
    let app = TestApp::start().await;
    let holder = Locks::public(&app, "hobbyist").await;
    let lease = holder.lease("job", &json!({})).await;
    let asked = json!({"reason": "stuck", "fencing_token": lease["fencing_token"]});
    let (_, token) = app
        .account("business")
        .await
        .token_with("public", Scope::Manage, None)
        .await;
    let stranger = Locks::new(&app, &token, "public");
    let lost = refused(&stranger.call("job", "break", &asked).await);
    assert_eq!((lost.0, &*lost.1), (409, "lease-lost"));
    let administrator = app.administrator().await;
    let (_, token) = administrator
        .token_with("public", Scope::Manage, None)
        .await;
    let administrator = Locks::new(&app, &token, "public");
    let answer = administrator.call("job", "break", &asked).await;
    assert_eq!(answer.json(), json!({"broken": [named(&lease)]}));
    // What an administrator broke stays unknown to strangers.
    let lost = refused(&stranger.call("job", "break", &asked).await);
    assert_eq!((lost.0, &*lost.1), (409, "lease-lost"));
}

//! The real statements, each without one of its clauses. A scenario that the real ones pass must
//! show the fault of every mutant, or the clause is not needed, or not tested.

mod compensation;
mod ends;
mod late;
mod marks;
mod reports;

use lockable::locks::Heartbeat;

use super::statements::{Kind, Mutation, Session};
use super::*;
use crate::support::node::any_time;

/// Demands that the promise is kept by the real statements, and by no mutant.
async fn assert_needed(kept: impl AsyncFn(Setting) -> bool, mutations: &[Mutation]) {
    assert!(
        kept(Setting::create(None).await).await,
        "without a mutation"
    );
    for mutation in mutations {
        let setting = Setting::create(Some(*mutation)).await;
        assert!(!kept(setting).await, "not caught: {mutation:?}");
    }
}

/// A database without outages, a session whose statements may be mutants, and another one.
struct Setting {
    db: Database,
    session: Session,
    other: Session,
}

impl Setting {
    async fn create(mutation: Option<Mutation>) -> Setting {
        let db = Database::create().await;
        forget_outages(&db).await;
        Setting {
            session: Session::open(&db, mutation).await,
            other: Session::open(&db, mutation).await,
            db,
        }
    }

    /// Takes a lock for Alice that must be free.
    async fn grant(&mut self, request: &Acquire) {
        let name = request.key.name.as_str();
        let verdicts = self
            .other
            .acquire(std::slice::from_ref(request), any_time())
            .await;
        assert!(verdicts.are(name, "granted"), "{verdicts:?}");
    }

    /// Releases Alice's lease, if it is one of her own ids.
    async fn release(&mut self, name: &str, id: Uuid) {
        let request = release(ALICE, name, Some(id));
        let verdicts = self.other.release(&request, any_time()).await;
        assert!(verdicts.are(name, "done"), "{verdicts:?}");
    }

    async fn renew(&mut self, name: &str, id: Uuid, lease_ms: Option<i32>) {
        let request = Heartbeat {
            lease_ms,
            ..heartbeat(ALICE, name, Some(id))
        };
        let verdicts = self.other.heartbeat(&request, any_time()).await;
        assert!(verdicts.are(name, "renewed"), "{verdicts:?}");
    }

    async fn lapse(&self, name: &str) {
        let lapse = "UPDATE locks SET expires_at = clock_timestamp() WHERE name =";
        self.db.execute(&format!("{lapse} '{name}'")).await;
    }

    /// Seconds until the latest lease of a lock ends; `None` if there is none, or it was ended.
    async fn remaining_s(&self, name: &str) -> Option<f64> {
        let remaining = format!(
            "SELECT (SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM locks
                      WHERE name = '{name}' AND end_reason = 0)"
        );
        self.db.value(&remaining).await
    }

    async fn is_held(&self, name: &str) -> bool {
        self.remaining_s(name).await.is_some_and(|s| s > 0.0)
    }
}

fn of(name: &str, id: Uuid) -> Acquire {
    acquire(ALICE, name, Some(id))
}

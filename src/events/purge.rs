//! Deletes events that are older than their plan's history, and those of namespaces that are no
//! more, in small batches: one namespace after another.

use sqlx::PgPool;

use super::store;

/// The most events of one batch.
const BATCH: i64 = 1000;
/// The most batches of one step.
const BATCHES: usize = 50;

/// How far a node has come in its walk through the namespaces.
#[derive(Clone, Debug, Default)]
pub struct Purge {
    /// The last namespace that has no event past its time.
    done: i64,
}

impl Purge {
    /// Does a share of the work. Returns the number of events that it deleted.
    ///
    /// # Errors
    /// If a query fails. The next call continues from the same position.
    pub async fn step(&mut self, pool: &PgPool) -> sqlx::Result<i64> {
        let mut deleted = 0;
        for _ in 0..BATCHES {
            let Some(namespace_id) = store::next_namespace(pool, self.done).await? else {
                self.done = 0;
                break;
            };
            let batch = store::purge(pool, namespace_id, BATCH).await?;
            deleted += batch;
            if batch < BATCH {
                self.done = namespace_id;
            }
        }
        Ok(deleted)
    }
}

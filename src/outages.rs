//! The record of outages (P10): the time at which a node could last commit, and the latest stretch
//! of more than three seconds in which none could. The function `lease_is_live` in the migrations
//! applies it to leases.

use std::time::Duration;

use sqlx::{PgExecutor, PgPool};

/// The interval of a node's ticks: a tick that hangs in its commit began at most so long after the
/// outage.
pub const TICK_EVERY: Duration = Duration::from_millis(500);

/// Records that this node can commit now. To be called every [`TICK_EVERY`] while the node is ready
/// to serve. Returns true if an outage has just ended: for the grace that follows, its leases can
/// be renewed and nobody else gets their locks.
///
/// # Errors
/// If the database query fails.
pub async fn tick(executor: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"/* outages.tick */ SELECT tick_service_clock() AS "outage_ended!""#)
        .fetch_one(executor)
        .await
}

/// Sets the grace, milliseconds: the time after an outage in which its leases can be renewed before
/// anybody else gets the lock.
///
/// # Errors
/// If the database query fails.
pub async fn set_grace_ms(pool: &PgPool, grace_ms: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "/* outages.set_grace_ms */ UPDATE service_clock SET grace_ms = $1 WHERE grace_ms <> $1",
        grace_ms
    )
    .execute(pool)
    .await?;
    Ok(())
}

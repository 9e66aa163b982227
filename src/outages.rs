//! The record of outages (P10): when a node could last commit, and the latest stretch of more than
//! three seconds in which none could. What follows from it for a lease is said once, by
//! `lease_is_live` in the migrations.

use std::time::Duration;

use sqlx::{PgExecutor, PgPool};

/// How often a node ticks: a tick that hangs in its commit began at most so long after an outage
/// did.
pub const TICK_EVERY: Duration = Duration::from_millis(500);

/// Notes that this node can commit now. To be called every [`TICK_EVERY`] while the node is ready
/// to serve. Returns whether an outage has just ended: its leases can be renewed for the grace to
/// come, and nobody else gets their locks.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn tick(executor: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"/* outages.tick */ SELECT tick_service_clock() AS "outage_ended!""#)
        .fetch_one(executor)
        .await
}

/// Sets how long after an outage its leases may still be renewed before anybody else gets the lock,
/// milliseconds.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn set_grace_ms(pool: &PgPool, grace_ms: i32) -> sqlx::Result<()> {
    sqlx::query!(
        "/* outages.set_grace_ms */ UPDATE service_clock SET grace_ms = $1 WHERE grace_ms <> $1",
        grace_ms
    )
    .execute(pool)
    .await?;
    Ok(())
}

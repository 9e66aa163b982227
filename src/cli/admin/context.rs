//! The context of an administrative command.

use sqlx::PgPool;

use crate::audit::Actor;

/// The database, the actor for the audit log, and the form of the output.
pub(super) struct Admin {
    pub(super) pool: PgPool,
    pub(super) actor: Actor,
    /// Print JSON instead of columns.
    pub(super) json: bool,
}

//! Requests for several locks or none: in one transaction, on a connection of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use tokio::sync::Mutex;

use super::connection::{LaneConnection, SendError};
use super::events;
use crate::events::Recorder;
use crate::locks::{AcquireAll, AcquireAllOutcome, EngineError};

/// The pause before a request that lost against others, or found no database, is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// The connection for requests about several locks: one of them at a time on a node.
#[derive(Clone)]
pub(super) struct Together {
    database: PgConnectOptions,
    connection: Arc<Mutex<LaneConnection>>,
    recorder: Recorder,
}

impl std::fmt::Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").finish_non_exhaustive()
    }
}

impl Together {
    pub(super) fn new(database: PgConnectOptions, recorder: Recorder) -> Self {
        Self {
            database,
            connection: Arc::default(),
            recorder,
        }
    }

    /// Acquires all locks of the request, or none; `room` is the number of locks that the account
    /// may take beside those that it holds.
    ///
    /// # Errors
    /// [`EngineError`]: whether it was executed is unknown, or the database refused it.
    pub(super) async fn acquire_all(
        &self,
        request: &AcquireAll,
        room: i32,
        deadline: Instant,
    ) -> Result<AcquireAllOutcome, EngineError> {
        loop {
            let mut connection = self.connection.lock().await;
            let sent = connection.acquire_all(&self.database, request, room, deadline);
            let result = sent.await;
            drop(connection);
            match result {
                Ok(Some((outcome, ended))) => {
                    self.recorder.record(ended);
                    if let AcquireAllOutcome::Granted(leases) = &outcome {
                        let granted = events::granted_together(request, leases);
                        self.recorder.record(granted);
                    }
                    return Ok(outcome);
                }
                Err(SendError::Refused) => return Err(EngineError::Refused),
                // A second execution finds the leases of the first by their id.
                Ok(None) | Err(SendError::NotSent | SendError::InDoubt | SendError::Contention) => {
                }
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(EngineError::Unknown);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

//! The connections of a lane: what is sent on them, and how a statement can fail.

use std::time::{Duration, Instant};

use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use super::request::Pending;
use super::statements::{BatchStatement, Outcomes};
use crate::db;

/// The time after which a statement's connection is given up and its outcome is unknown. The
/// statement is never cancelled: one that waits for a synchronous standby would then report success
/// without being durable.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);

/// Why a statement has no outcomes.
pub(super) enum SendError {
    /// There is no connection: nothing was sent.
    NotSent,
    /// It was sent and its result is lost: it may have been executed.
    InDoubt,
    /// It was rolled back because of other transactions: retry it.
    Contention,
    /// It was rolled back because of what it says. A bug of ours, if it is about one request.
    Refused,
}

impl SendError {
    /// True if the database could not be reached, or went away.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::NotSent | Self::InDoubt)
    }
}

/// The result of requests that were executed in one transaction.
pub(super) struct TransactionResult<S: BatchStatement> {
    pub(super) requests: Vec<Pending<S::Request>>,
    /// The outcomes in the order of the requests, and how long they took.
    pub(super) result: Result<(Outcomes<S::Request>, Duration), SendError>,
}

/// The results of all requests of a kind in a batch: of one transaction, or of one for each request
/// where they failed together.
pub(super) type StatementResults<S> = Vec<TransactionResult<S>>;

/// A connection that is kept, and opened again when it was lost.
#[derive(Default)]
pub(super) struct LaneConnection(Option<PgConnection>);

impl LaneConnection {
    /// The connection, opened if there is none.
    async fn take(&mut self, database: &PgConnectOptions) -> sqlx::Result<PgConnection> {
        match self.0.take() {
            Some(connection) => Ok(connection),
            None => db::connect(database, db::Purpose::LockEngine).await,
        }
    }

    /// Opens it ahead of the first request. One that cannot be opened now is tried again by that
    /// request.
    async fn warm(&mut self, database: &PgConnectOptions) {
        self.0 = self.take(database).await.ok();
    }

    /// Executes requests of one kind: in one transaction or, if one of them makes that fail for the
    /// others, in one transaction each.
    pub(super) async fn execute<S: BatchStatement>(
        &mut self,
        database: &PgConnectOptions,
        requests: Vec<Pending<S::Request>>,
    ) -> StatementResults<S> {
        if requests.is_empty() {
            return Vec::new();
        }
        match self.send::<S>(database, &requests).await {
            Err(SendError::Contention | SendError::Refused) if requests.len() > 1 => {
                let mut results = Vec::with_capacity(requests.len());
                let mut is_unavailable = false;
                for pending in requests {
                    let requests = vec![pending];
                    // Once the database has gone there is no use in trying each request.
                    let result = if is_unavailable {
                        Err(SendError::NotSent)
                    } else {
                        self.send::<S>(database, &requests).await
                    };
                    is_unavailable = result.as_ref().is_err_and(SendError::is_unavailable);
                    results.push(TransactionResult { requests, result });
                }
                results
            }
            result => vec![TransactionResult { requests, result }],
        }
    }

    /// Executes requests in one transaction.
    async fn send<S: BatchStatement>(
        &mut self,
        database: &PgConnectOptions,
        pending: &[Pending<S::Request>],
    ) -> Result<(Outcomes<S::Request>, Duration), SendError> {
        let count = pending.len();
        let mut connection = self.take(database).await.map_err(|error| {
            tracing::warn!(%error, statement = S::NAME, requests = count, "no connection to the database");
            SendError::NotSent
        })?;
        let requests: Vec<&S::Request> = pending.iter().map(|pending| &pending.request).collect();
        let sent_at = Instant::now();
        let result =
            tokio::time::timeout(STATEMENT_TIMEOUT, S::send(&mut connection, &requests)).await;
        let took = sent_at.elapsed();
        metrics::histogram!("lockable_database_seconds", "statement" => S::NAME)
            .record(took.as_secs_f64());
        // If the result is lost, the connection is dropped without a cancel request: the statement
        // runs to its end.
        match result {
            Ok(Ok(outcomes)) => {
                self.0 = Some(connection);
                Ok((outcomes, took))
            }
            Ok(Err(error)) if db::is_contention(&error) => {
                tracing::debug!(%error, statement = S::NAME, requests = count, "lost against other statements: retried");
                self.0 = Some(connection);
                Err(SendError::Contention)
            }
            Ok(Err(error)) if db::is_unavailable(&error) => {
                tracing::warn!(%error, statement = S::NAME, requests = count, "the database's answer is lost");
                Err(SendError::InDoubt)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, statement = S::NAME, requests = count, "the database refused a statement");
                self.0 = Some(connection);
                Err(SendError::Refused)
            }
            Err(_) => {
                tracing::warn!(
                    statement = S::NAME,
                    requests = count,
                    "the database does not answer: connection given up"
                );
                Err(SendError::InDoubt)
            }
        }
    }
}

/// A connection for each statement: a batch has each lock once, so its statements cannot wait for
/// each other.
#[derive(Default)]
pub(super) struct LaneConnections {
    pub(super) insert_if_absent: LaneConnection,
    pub(super) acquire: LaneConnection,
    pub(super) heartbeat: LaneConnection,
    pub(super) release: LaneConnection,
}

impl LaneConnections {
    pub(super) async fn warm(&mut self, database: &PgConnectOptions) {
        tokio::join!(
            self.acquire.warm(database),
            self.insert_if_absent.warm(database),
            self.heartbeat.warm(database),
            self.release.warm(database)
        );
    }
}

/// The pause before a database that was unavailable is tried again: doubled each time, with jitter,
/// so that the lanes of all nodes do not return at once.
#[derive(Default)]
pub(super) struct Backoff(Option<Duration>);

impl Backoff {
    pub(super) async fn pause(&mut self) {
        let pause = self.0.unwrap_or(FIRST_BACKOFF);
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        self.0 = Some((pause * 2).min(LONGEST_BACKOFF));
    }

    pub(super) fn reset(&mut self) {
        self.0 = None;
    }
}

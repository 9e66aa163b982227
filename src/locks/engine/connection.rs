//! The connections of a lane: they execute batches, say how a statement failed, and carry the
//! database's clock.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::time::error::Elapsed;

use super::batch_statement::BatchStatement;
use super::request::{Outcomes, Pending};
use super::statements::{self, together};
use crate::db;
use crate::events::NewEvent;
use crate::locks::{AcquireAll, AcquireAllOutcome};

/// The time after which a statement's connection is given up and its outcome is unknown. The
/// statement is never cancelled: one that waits for a synchronous standby would then report success
/// without being durable.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time after it was sent in which a statement may still write. If its result is lost,
/// nothing is concluded from that before this time has passed: a retry, and every answer that
/// follows, could otherwise be undone by the first execution, which may still be on its way.
const WRITES_WITHIN: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_millis(500);

/// Why a statement has no outcomes.
pub(super) enum SendError {
    /// There is no connection: nothing was sent.
    NotSent,
    /// It was sent and its result is lost: it may have been executed, but writes nothing any more.
    InDoubt,
    /// It was rolled back because of other transactions: retry it.
    Contention,
    /// The database refused the statement itself. A bug of ours, if it is about one request.
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
    pub(super) result: Result<Executed<S>, SendError>,
}

/// A transaction that was executed.
pub(super) struct Executed<S: BatchStatement> {
    /// The outcomes, in the order of the requests.
    pub(super) outcomes: Outcomes<S::Request>,
    pub(super) news: S::News,
    pub(super) took: Duration,
}

/// The results of all requests of a kind in a batch: of one transaction, or of one for each request
/// where they failed together.
pub(super) type StatementResults<S> = Vec<TransactionResult<S>>;

/// A reading of the database's clock, carried forward by the node's monotonic clock. It turns the
/// deadline of a request into the latest instant of its statement (ADR 9).
#[derive(Clone, Copy, Debug)]
struct DatabaseClock {
    time: DateTime<Utc>,
    /// The instant after the reading arrived: the database's clock had passed `time` by then.
    read_at: Instant,
}

/// The age at which the clock is read again: two clocks drift apart.
const READING_KEPT_FOR: Duration = Duration::from_secs(30);
/// The idle time of a connection after which the clock is read again before anything is sent on it:
/// if the connection was lost meanwhile, nothing is in doubt.
const TRUSTED_IDLE_FOR: Duration = Duration::from_secs(1);
/// The age at which it is read again if a statement had no verdict on a request: the reason may be
/// that the database's clock was set forward.
const DOUBTED_READING_KEPT_FOR: Duration = Duration::from_secs(1);
/// The drift of the clocks that is allowed for, as a divisor of the reading's age: 1 / 1,000, twice
/// what NTP slews.
const DRIFT: u32 = 1000;

impl DatabaseClock {
    async fn read(connection: &mut PgConnection) -> sqlx::Result<Self> {
        let time = statements::read_clock(connection).await?;
        Ok(Self {
            time,
            read_at: Instant::now(),
        })
    }

    /// An instant of the database's clock that is not later than `instant`.
    fn at(&self, instant: Instant) -> DateTime<Utc> {
        let ahead = instant.saturating_duration_since(self.read_at);
        let drift = ahead / DRIFT;
        let delta = TimeDelta::from_std(ahead.saturating_sub(drift)).unwrap_or_default();
        self.time + delta
    }
}

/// An open connection, and a reading of the clock of its database.
struct Session {
    connection: PgConnection,
    clock: DatabaseClock,
    is_clock_doubted: bool,
    used_at: Instant,
}

impl Session {
    async fn open(database: &PgConnectOptions) -> sqlx::Result<Self> {
        let mut connection = db::connect(database, db::Purpose::LockEngine).await?;
        let clock = DatabaseClock::read(&mut connection).await?;
        Ok(Self {
            connection,
            clock,
            is_clock_doubted: false,
            used_at: Instant::now(),
        })
    }

    /// Reads the clock again where its reading is old, or the connection may have been lost.
    async fn refresh_clock(&mut self) -> sqlx::Result<()> {
        let age = self.clock.read_at.elapsed();
        if age > READING_KEPT_FOR
            || self.used_at.elapsed() > TRUSTED_IDLE_FOR
            || self.is_clock_doubted && age > DOUBTED_READING_KEPT_FOR
        {
            self.clock = DatabaseClock::read(&mut self.connection).await?;
            self.is_clock_doubted = false;
        }
        Ok(())
    }
}

/// The node that executes statements.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    /// Drawn at its start.
    pub(super) id: i64,
    pub(super) database: &'a PgConnectOptions,
}

/// A statement that is about to be sent.
struct Sending {
    session: Session,
    statement: &'static str,
    /// The number of requests that it is about.
    count: usize,
    sent_at: Instant,
    writes_until: Instant,
    /// The same on the database's clock.
    latest_at: DateTime<Utc>,
}

/// A connection that is kept, and opened again when it was lost.
#[derive(Default)]
pub(super) struct LaneConnection(Option<Session>);

impl LaneConnection {
    /// The session, opened if there is none, with a fresh reading of the clock.
    async fn take(&mut self, database: &PgConnectOptions) -> sqlx::Result<Session> {
        let session = self.0.take();
        let ready = async {
            let mut session = match session {
                Some(session) => session,
                None => Session::open(database).await?,
            };
            session.refresh_clock().await?;
            Ok(session)
        };
        tokio::time::timeout(db::ACQUIRE_TIMEOUT, ready)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
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
        node: Node<'_>,
        requests: Vec<Pending<S::Request>>,
    ) -> StatementResults<S> {
        if requests.is_empty() {
            return Vec::new();
        }
        match self.send::<S>(node, &requests).await {
            Err(SendError::Contention | SendError::Refused) if requests.len() > 1 => {
                let mut results = Vec::with_capacity(requests.len());
                let mut is_unavailable = false;
                for pending in requests {
                    let requests = vec![pending];
                    // Once the database has gone there is no use in trying each request.
                    let result = if is_unavailable {
                        Err(SendError::NotSent)
                    } else {
                        self.send::<S>(node, &requests).await
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
        node: Node<'_>,
        pending: &[Pending<S::Request>],
    ) -> Result<Executed<S>, SendError> {
        // The first to be answered as unknown bounds the statement for all.
        let deadline = pending.iter().map(|pending| pending.deadline).min();
        let deadline = deadline.unwrap_or_else(Instant::now);
        let mut sending = self
            .begin(node.database, S::NAME, pending.len(), deadline)
            .await?;
        let requests: Vec<&S::Request> = pending.iter().map(|pending| &pending.request).collect();
        let connection = &mut sending.session.connection;
        let send = S::send(connection, node.id, &requests, sending.latest_at);
        let result = tokio::time::timeout(STATEMENT_TIMEOUT, send).await;
        let took = sending.sent_at.elapsed();
        let ((outcomes, news), mut session) = self.finish(sending, result).await?;
        session.is_clock_doubted |= outcomes.iter().any(Option::is_none);
        self.0 = Some(session);
        Ok(Executed {
            outcomes,
            news,
            took,
        })
    }

    /// Acquires several locks in one transaction; with the lapsed leases that it found. `None`: it
    /// came too late, retry it.
    pub(super) async fn acquire_all(
        &mut self,
        database: &PgConnectOptions,
        request: &AcquireAll,
        room: i32,
        deadline: Instant,
    ) -> Result<Option<(AcquireAllOutcome, Vec<NewEvent>)>, SendError> {
        let mut sending = self.begin(database, "acquire_all", 1, deadline).await?;
        let connection = &mut sending.session.connection;
        let send = together::acquire_all(connection, request, room, sending.latest_at);
        let result = tokio::time::timeout(STATEMENT_TIMEOUT, send).await;
        let (outcome, mut session) = self.finish(sending, result).await?;
        session.is_clock_doubted |= outcome.is_none();
        self.0 = Some(session);
        Ok(outcome)
    }

    /// Takes the connection for a statement about `count` requests.
    async fn begin(
        &mut self,
        database: &PgConnectOptions,
        statement: &'static str,
        count: usize,
        deadline: Instant,
    ) -> Result<Sending, SendError> {
        let session = self.take(database).await.map_err(|error| {
            tracing::warn!(%error, statement, requests = count, "no connection to the database");
            SendError::NotSent
        })?;
        let sent_at = Instant::now();
        let writes_until = (sent_at + WRITES_WITHIN).min(deadline);
        Ok(Sending {
            statement,
            count,
            sent_at,
            writes_until,
            latest_at: session.clock.at(writes_until),
            session,
        })
    }

    /// The result of a statement. After an error the connection is kept only if its state is known:
    /// one whose result is lost is dropped without a cancel request, and the statement runs to its
    /// end.
    async fn finish<T>(
        &mut self,
        sending: Sending,
        result: Result<sqlx::Result<T>, Elapsed>,
    ) -> Result<(T, Session), SendError> {
        let Sending {
            mut session,
            statement,
            count,
            sent_at,
            writes_until,
            ..
        } = sending;
        session.used_at = Instant::now();
        metrics::histogram!("lockable_database_seconds", "statement" => statement)
            .record(sent_at.elapsed().as_secs_f64());
        match result {
            Ok(Ok(value)) => Ok((value, session)),
            Ok(Err(error)) if db::is_contention(&error) => {
                tracing::debug!(
                    %error,
                    statement,
                    requests = count,
                    "lost against other statements: retried"
                );
                self.0 = Some(session);
                Err(SendError::Contention)
            }
            Ok(Err(error)) if db::is_unavailable(&error) => {
                tracing::warn!(
                    %error,
                    statement,
                    requests = count,
                    "the database's answer is lost"
                );
                drop(session);
                tokio::time::sleep_until(writes_until.into()).await;
                Err(SendError::InDoubt)
            }
            Ok(Err(error)) => {
                tracing::error!(
                    %error,
                    statement,
                    requests = count,
                    "the database refused a statement"
                );
                self.0 = Some(session);
                Err(SendError::Refused)
            }
            Err(_) => {
                tracing::warn!(
                    statement,
                    requests = count,
                    "the database does not answer: connection given up"
                );
                Err(SendError::InDoubt)
            }
        }
    }
}

/// The connections of a lane: one for each kind of statement, so that they run at the same time. A
/// batch has each lock once, so they cannot wait for each other's rows.
#[derive(Default)]
pub(super) struct LaneConnections {
    pub(super) insert_if_absent: LaneConnection,
    pub(super) acquire: LaneConnection,
    pub(super) heartbeat: LaneConnection,
    pub(super) release: LaneConnection,
    pub(super) gate: LaneConnection,
}

impl LaneConnections {
    pub(super) async fn warm(&mut self, database: &PgConnectOptions) {
        tokio::join!(
            self.acquire.warm(database),
            self.insert_if_absent.warm(database),
            self.heartbeat.warm(database),
            self.release.warm(database),
            self.gate.warm(database)
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

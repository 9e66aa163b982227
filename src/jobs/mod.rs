//! The jobs that a node runs at intervals. Every job can run on all nodes at once.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::MissedTickBehavior;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::db::changes::Subscriber;
use crate::events::{Purge, recorder};
use crate::locks::sweeper::Sweeper;
use crate::{accounts, activity, db, outages, tokens};

/// Starts the jobs of a node. They end when the app is drained; wait for `tasks` after that.
pub fn spawn(app: &App, tasks: &TaskTracker) {
    let verifier = app.tokens.clone();
    let subscribers: Vec<Subscriber> = vec![Box::new(move |notice| verifier.forget(notice))];
    tasks.spawn(
        app.changes
            .clone()
            .listen(app.database.clone(), subscribers, app.drained.clone()),
    );

    tasks.spawn(tick(app.clone()));
    every(
        app,
        tasks,
        "count live locks",
        Duration::from_secs(1),
        |app| async move { app.locks.usage().count(&app.db).await },
    );
    every(
        app,
        tasks,
        "finish deletions",
        Duration::from_secs(60),
        |app| async move {
            for account_id in accounts::deleting(&app.db).await? {
                accounts::delete(&app.db, account_id).await?;
            }
            Ok(())
        },
    );
    every(
        app,
        tasks,
        "sweep sessions and links",
        Duration::from_secs(600),
        |app| async move {
            accounts::sessions::sweep(&app.db).await?;
            accounts::links::sweep(&app.db).await?;
            Ok(())
        },
    );
    every(
        app,
        tasks,
        "sweep revoked tokens",
        Duration::from_secs(3600),
        |app| async move { tokens::sweep(&app.db).await.map(drop) },
    );
    every(
        app,
        tasks,
        "sweep account activity",
        Duration::from_secs(3600),
        |app| async move { activity::sweep(&app.db).await.map(drop) },
    );
    every(
        app,
        tasks,
        "refresh the keys of e-mail addresses",
        Duration::from_secs(24 * 3600),
        |app| async move { accounts::refresh_email_keys(&app.db).await },
    );
    tasks.spawn(write_last_uses(app.clone()));
    tasks.spawn(write_events(app.clone()));
    tasks.spawn(app.events.clone().run());
    tasks.spawn(purge_events(app.clone()));
    let app = app.clone();
    tasks.spawn(async move {
        let mut sweeper = Sweeper::recording(app.locks.recorder().clone());
        let mut interval = interval(Duration::from_secs(1));
        while next(&app, &mut interval).await {
            if let Err(error) = sweeper.step(&app.db).await {
                tracing::warn!(%error, job = "sweep", "could not be done: tried again in a second");
            }
        }
    });
}

/// Ticks on a connection of its own, because pages that keep the pool busy are no outage.
async fn tick(app: App) {
    let mut interval = interval(outages::TICK_EVERY);
    let mut connection = None;
    while next(&app, &mut interval).await {
        match tick_once(&app, &mut connection).await {
            Ok(true) => {
                tracing::warn!(
                    "an outage has ended: its leases can be renewed before anybody else gets their \
                     locks"
                );
            }
            Ok(false) => {}
            Err(error) => {
                connection = None;
                tracing::warn!(%error, job = "tick", "could not be done: tried again in a second");
            }
        }
    }
}

async fn tick_once(app: &App, connection: &mut Option<PgConnection>) -> sqlx::Result<bool> {
    if connection.is_none() {
        *connection = Some(db::connect(&app.database, db::Purpose::General).await?);
    }
    match connection {
        // A tick that hangs is no sign of life: its connection is dropped.
        Some(connection) => tokio::time::timeout(db::ACQUIRE_TIMEOUT, outages::tick(connection))
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)?,
        None => Ok(false),
    }
}

/// Writes the last uses of tokens, once more when the node stops.
async fn write_last_uses(app: App) {
    let mut interval = interval(Duration::from_secs(5));
    let mut running = true;
    while running {
        running = next(&app, &mut interval).await;
        app.tokens.tidy();
        if let Err(error) = app.tokens.write_last_used().await {
            tracing::warn!(%error, job = "write last uses of tokens", "could not be done");
        }
    }
}

/// Writes the events of locks, once more when the node stops.
async fn write_events(app: App) {
    let mut interval = interval(recorder::WRITE_EVERY);
    let mut running = true;
    while running {
        running = next(&app, &mut interval).await;
        if let Err(error) = app.locks.recorder().write(&app.db).await {
            tracing::warn!(%error, job = "write events", "could not be done: tried again");
            // Jitter, so that the nodes do not come back to a restarted database all at once.
            let pause = Duration::from_millis(500).mul_f64(0.5 + rand::random::<f64>());
            tokio::select! {
                () = app.drained.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Deletes events that are past their time.
async fn purge_events(app: App) {
    let mut purge = Purge::default();
    let mut interval = interval(Duration::from_secs(10));
    while next(&app, &mut interval).await {
        if let Err(error) = purge.step(&app.db).await {
            tracing::warn!(%error, job = "purge events", "could not be done: tried again later");
        }
    }
}

/// Runs a job at once and then every `period`, until the app is drained. A failed one runs again
/// after the next period.
fn every<F>(
    app: &App,
    tasks: &TaskTracker,
    name: &'static str,
    period: Duration,
    job: impl Fn(App) -> F + Send + 'static,
) where
    F: Future<Output = sqlx::Result<()>> + Send,
{
    let app = app.clone();
    tasks.spawn(async move {
        let mut interval = interval(period);
        while next(&app, &mut interval).await {
            if let Err(error) = job(app.clone()).await {
                tracing::warn!(%error, job = name, "could not be done: tried again later");
            }
        }
    });
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn next(app: &App, interval: &mut tokio::time::Interval) -> bool {
    tokio::select! {
        () = app.drained.cancelled() => false,
        _ = interval.tick() => true,
    }
}

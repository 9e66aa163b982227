//! The signals that `lockable run` gets.

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::client::processes;
use crate::signals::catch_unless_ignored;

/// Passed on to the command; before it runs, they end the waiting.
pub(super) const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGINT,
    Signal::SIGQUIT,
];
/// Caught while the command runs: a shell stops its jobs with them, and lets them go on.
pub(super) const JOB_CONTROL: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGWINCH];

/// Signals that were caught, in the order of their arrival.
pub(super) struct Signals(mpsc::Receiver<Signal>);

impl Signals {
    /// Catches these signals from now on; those that this process ignores stay ignored.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub(super) fn catch(signals: &[Signal]) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel(16);
        for name in signals.iter().copied() {
            let Some(mut stream) = catch_unless_ignored(SignalKind::from_raw(name as i32))? else {
                continue;
            };
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() && sender.send(name).await.is_ok() {}
            });
        }
        Ok(Self(receiver))
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            // All of them are ignored.
            None => std::future::pending().await,
        }
    }
}

/// Reaps children from now on: the watchdog, and orphans, which the system hands to process 1 of a
/// container and to a subreaper.
///
/// # Errors
/// If the system refuses the handler.
pub(super) fn reap_children() -> std::io::Result<()> {
    let mut changes = signal(SignalKind::child())?;
    tokio::spawn(async move {
        loop {
            while processes::next_change().is_ok() {}
            if changes.recv().await.is_none() {
                return;
            }
        }
    });
    Ok(())
}

//! The signals that stop the service.

use tokio::signal::unix::{Signal, SignalKind};

use crate::signals::catch_unless_ignored;

/// The signals that ask for a stop. Those that were ignored when the process started stay ignored:
/// `nohup lockable serve &` outlives its terminal.
pub(super) struct StopSignals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hang_up: Option<Signal>,
}

impl StopSignals {
    /// Catches the signals: they no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: catch_unless_ignored(SignalKind::terminate())?,
            interrupt: catch_unless_ignored(SignalKind::interrupt())?,
            hang_up: catch_unless_ignored(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = received(&mut self.terminate) => "SIGTERM",
            () = received(&mut self.interrupt) => "SIGINT",
            // The terminal is gone, and with it the other way to stop the service.
            () = received(&mut self.hang_up) => "SIGHUP",
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

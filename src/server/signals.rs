//! The signals that stop the service.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for a stop.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl StopSignals {
    /// Catches the signals: they no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            // The terminal is gone, and with it the other way to stop the service.
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

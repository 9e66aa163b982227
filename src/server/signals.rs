//! What the operating system says to the process.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for a stop.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl StopSignals {
    /// From here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// Where the system does not let them be caught.
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            // The terminal is gone: nobody is there any more to stop it otherwise.
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

//! The messages of `lockable run` on standard error.
//!
//! A thread writes them: if the reader of a pipe does not read, a write waits, and the lease must
//! be renewed meanwhile.

use std::fmt::Display;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::cli::output;

/// Messages that may wait for the reader. More are dropped.
const CAPACITY: usize = 64;
/// How long the end of the program may wait for the reader.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Writes messages without waiting.
#[derive(Debug)]
pub(super) struct Messages {
    queue: Option<SyncSender<String>>,
    /// Disconnected when the thread has written everything.
    written: Receiver<()>,
    is_quiet: bool,
}

impl Messages {
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn start(is_quiet: bool) -> std::io::Result<Self> {
        let (queue, waiting) = sync_channel::<String>(CAPACITY);
        let (end, written) = sync_channel::<()>(0);
        std::thread::Builder::new()
            .name("messages".to_owned())
            .spawn(move || {
                waiting.iter().for_each(output::error);
                drop(end);
            })?;
        Ok(Self {
            queue: Some(queue),
            written,
            is_quiet,
        })
    }

    /// Says that something went wrong.
    pub(super) fn error(&self, message: impl Display) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(message.to_string());
        }
    }

    /// Says what `--quiet` leaves out.
    pub(super) fn note(&self, message: impl Display) {
        if !self.is_quiet {
            self.error(message);
        }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.queue = None;
        let _ = self.written.recv_timeout(FLUSH_TIMEOUT);
    }
}

//! The terminal that `lockable run` was started from.

use std::fs::{File, OpenOptions};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The controlling terminal.
#[derive(Debug)]
pub(super) struct Terminal(File);

impl Terminal {
    /// `None` if there is none.
    pub(super) fn open() -> Option<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/tty")
            .ok()
            .map(Self)
    }

    /// True if this process is in its foreground.
    pub(super) fn is_ours(&self) -> bool {
        tcgetpgrp(&self.0) == Ok(getpgrp())
    }

    /// Makes this group its foreground.
    pub(super) fn give(&self, group: Pid) {
        // In the background, the system stops a process that does not block this signal for it.
        let Ok(mask) = SigSet::from_iter([Signal::SIGTTOU]).thread_swap_mask(SigmaskHow::SIG_BLOCK)
        else {
            return;
        };
        let _ = tcsetpgrp(&self.0, group);
        let _ = mask.thread_set_mask();
    }
}

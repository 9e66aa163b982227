//! Signals that the process ignores.
//!
//! `nohup`, and shells without job control for background jobs, start a program with signals
//! ignored. A handler would undo that, so none is installed for such a signal.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A stream of this signal, which no longer ends the process; `None` if the process ignores it.
///
/// # Errors
/// If the system refuses the handler.
pub fn catch_unless_ignored(kind: SignalKind) -> std::io::Result<Option<Signal>> {
    if is_ignored(kind) {
        return Ok(None);
    }
    signal(kind).map(Some)
}

/// True if this process ignores the signal. False if the system does not say (no `/proc`).
#[must_use]
pub fn is_ignored(kind: SignalKind) -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| mask_has(&status, kind.as_raw_value()))
}

/// Reads the line `SigIgn:` of `/proc/self/status`: a hexadecimal mask, its lowest bit is signal 1.
fn mask_has(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    (1..=64).contains(&signal) && mask & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_counts_from_signal_one() {
        // SIGHUP (1), SIGINT (2) and SIGPIPE (13).
        let status = "Name:\tx\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001003\nSigCgt:\t0\n";
        let ignored: Vec<i32> = (0..=65).filter(|&it| mask_has(status, it)).collect();
        assert_eq!(ignored, [1, 2, 13]);
    }

    #[test]
    fn the_runtime_of_rust_ignores_sigpipe_and_nothing_ignores_sigalrm() {
        assert!(is_ignored(SignalKind::pipe()));
        assert!(!is_ignored(SignalKind::alarm()));
    }
}

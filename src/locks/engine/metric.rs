//! The names and meanings of the metrics of waiting.

/// The requests that wait in line on this node.
pub const WAITERS: &str = "lockable_waiters";
/// The requests that began to wait.
pub const WAITS: &str = "lockable_waits_total";
/// The time that requests waited in line, seconds.
pub const WAITED_SECONDS: &str = "lockable_waited_seconds";
/// The claims that were granted to waiters.
pub const HANDOVERS: &str = "lockable_handovers_total";
/// The claims that lapsed unconfirmed.
pub const CLAIMS_LAPSED: &str = "lockable_claims_lapsed_total";
/// The timers of lapsing leases that were over.
pub const TIMERS: &str = "lockable_gate_timers_total";
/// The notices that were sent to other nodes.
pub const NOTICES_SENT: &str = "lockable_notices_sent_total";
/// The notices that were heard.
pub const NOTICES_HEARD: &str = "lockable_notices_heard_total";
/// The looks at what the waiters wait for that failed.
pub const LOOKS_FAILED: &str = "lockable_looks_failed_total";

/// Describes the metrics, and starts the counters at 0.
pub fn describe() {
    metrics::describe_gauge!(WAITERS, "Requests that wait in line on this node");
    metrics::describe_histogram!(WAITED_SECONDS, "Time that requests waited in line, seconds");
    metrics::gauge!(WAITERS).set(0.0);
    for (counter, meaning) in [
        (WAITS, "Requests that began to wait in line"),
        (
            HANDOVERS,
            "Locks that were handed over to a waiter, as claims",
        ),
        (
            CLAIMS_LAPSED,
            "Claims that lapsed because their node did not confirm them",
        ),
        (TIMERS, "Timers of lapsing leases that were over"),
        (
            NOTICES_SENT,
            "Notices of claims that were sent to other nodes",
        ),
        (NOTICES_HEARD, "Notices of claims that were heard"),
        (
            LOOKS_FAILED,
            "Looks at what the waiters wait for that failed",
        ),
    ] {
        metrics::describe_counter!(counter, meaning);
        metrics::counter!(counter).increment(0);
    }
}

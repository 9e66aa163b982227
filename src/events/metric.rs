//! The names and meanings of the metrics of events.

/// The events that were written.
pub const WRITTEN: &str = "lockable_events_written_total";
/// The events that wait in memory.
pub const WAITING: &str = "lockable_events_waiting";
/// The events that were lost.
pub const LOST: &str = "lockable_events_lost_total";
/// The watchers of this node.
pub const WATCHERS: &str = "lockable_watchers";

/// Describes the metrics, and starts them at 0.
pub fn describe() {
    for (counter, meaning) in [
        (WRITTEN, "Events of private namespaces that were written"),
        (LOST, "Events that were lost, and written as gaps"),
    ] {
        metrics::describe_counter!(counter, meaning);
        metrics::counter!(counter).increment(0);
    }
    for (gauge, meaning) in [
        (WAITING, "Events that wait in memory to be written"),
        (WATCHERS, "Streams of events that this node serves"),
    ] {
        metrics::describe_gauge!(gauge, meaning);
        metrics::gauge!(gauge).set(0.0);
    }
}

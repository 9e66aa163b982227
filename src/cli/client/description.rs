//! Locks, leases and lines in words.

use super::display::{Column, Table, fields, instant, remaining, span, visible};
use super::v2::{Lease, Lock, Waiter};
use crate::locks::LockName;
use crate::namespaces::PUBLIC;

/// Stands for a value that there is not, or that is not shown to the caller.
pub(super) const NONE: &str = "-";

const LEASES: &[Column] = &[
    Column::whole("SLOT"),
    Column::flexible("HOLDER"),
    Column::whole("FENCING TOKEN"),
    Column::whole("REMAINING"),
    Column::whole("ACQUIRED"),
];
const LINE: &[Column] = &[
    Column::whole("POSITION"),
    Column::flexible("HOLDER"),
    Column::whole("MODE"),
    Column::whole("WAITED"),
];

/// All that is known of a lock: names and values, then its leases and its line as tables. A single
/// lease is described by names and values, too.
pub(super) fn describe(
    lock: &Lock,
    namespace: &str,
    name: &LockName,
    terminal_width: Option<usize>,
) -> Vec<String> {
    let leases = lock.leases();
    let waiting = lock.queue.as_deref().unwrap_or_default();
    let mut pairs = vec![
        ("lock", visible(name.as_str()).into_owned()),
        ("namespace", namespace.to_owned()),
        ("state", state(lock).to_owned()),
    ];
    if let Some(mode) = mode(lock) {
        pairs.push(("mode", mode));
    }
    match leases {
        [] if lock.is_held() => pairs.push(("holder", unseen(namespace).to_owned())),
        [] => {}
        [lease] => describe_lease(lease, &mut pairs),
        _ => pairs.push(("leases", leases.len().to_string())),
    }
    if let Some(length) = lock.queue_length.filter(|length| *length > 0) {
        pairs.push(("queue", format!("{length} waiting")));
    }
    let mut lines = fields(&pairs);
    if leases.len() > 1 {
        lines.push(String::new());
        lines.extend(lease_table(leases).lines(terminal_width));
    }
    if !waiting.is_empty() {
        lines.push(String::new());
        lines.extend(line_table(waiting).lines(terminal_width));
    }
    lines
}

/// `held` or `free`.
pub(super) fn state(lock: &Lock) -> &'static str {
    if lock.is_held() { "held" } else { "free" }
}

/// How a lock is held: `exclusive`, `shared`, or `semaphore of 3`.
pub(super) fn mode(lock: &Lock) -> Option<String> {
    let mode = visible(lock.mode.as_deref()?).into_owned();
    Some(match lock.limit {
        Some(limit) => format!("{mode} of {limit}"),
        None => mode,
    })
}

/// The label of a lease's holder.
pub(super) fn holder(lease: &Lease) -> String {
    label(lease.holder.as_deref())
}

/// A label that somebody may have given.
pub(super) fn label(text: Option<&str>) -> String {
    match text {
        Some(text) if !text.is_empty() => visible(text).into_owned(),
        _ => NONE.to_owned(),
    }
}

/// A number that may not be there.
pub(super) fn number(value: Option<u64>) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| value.to_string())
}

/// The time until a lease ends.
pub(super) fn time_left(lease: &Lease) -> String {
    lease
        .expires_in_ms
        .map_or_else(|| NONE.to_owned(), remaining)
}

fn unseen(namespace: &str) -> &'static str {
    if namespace == PUBLIC {
        "not shown: another account"
    } else {
        "not shown"
    }
}

fn describe_lease(lease: &Lease, pairs: &mut Vec<(&'static str, String)>) {
    pairs.push(("holder", holder(lease)));
    if let Some(slot) = lease.slot {
        pairs.push(("slot", slot.to_string()));
    }
    pairs.push(("fencing token", number(lease.fencing_token)));
    pairs.push(("lease id", label(lease.lease_id.as_deref())));
    pairs.push(("remaining", time_left(lease)));
    for (name, at) in [
        ("acquired", &lease.acquired_at),
        ("expires", &lease.expires_at),
    ] {
        if let Some(at) = at {
            pairs.push((name, instant(at)));
        }
    }
    if let Some(max_hold_ms) = lease.max_hold_ms {
        pairs.push(("hold limit", span(max_hold_ms)));
    }
    if let Some(metadata) = lease.metadata.as_ref().filter(|it| !it.is_null()) {
        pairs.push(("metadata", visible(&metadata.to_string()).into_owned()));
    }
}

fn lease_table(leases: &[Lease]) -> Table<'static> {
    // Only permits have numbers.
    let has_slots = leases.iter().any(|lease| lease.slot.is_some());
    let skipped = usize::from(!has_slots);
    let mut table = Table::new(&LEASES[skipped..]);
    for lease in leases {
        let row = [
            number(lease.slot.map(u64::from)),
            holder(lease),
            number(lease.fencing_token),
            time_left(lease),
            lease
                .acquired_at
                .as_ref()
                .map_or_else(|| NONE.to_owned(), instant),
        ];
        table.push(row.into_iter().skip(skipped).collect());
    }
    table
}

fn line_table(waiting: &[Waiter]) -> Table<'static> {
    let mut table = Table::new(LINE);
    for waiter in waiting {
        let waited = waiter.waited_ms.map_or_else(|| NONE.to_owned(), span);
        table.push(vec![
            number(waiter.position),
            label(waiter.holder.as_deref()),
            label(waiter.mode.as_deref()),
            if waiter.detached {
                format!("{waited} (detached)")
            } else {
                waited
            },
        ]);
    }
    table
}

//! How much of the machine's memory the embedded PostgreSQL may fill with pages of its tables.

use std::fs;

const MB: u64 = 1024 * 1024;
/// PostgreSQL's own default, megabytes: enough for about a hundred thousand locks.
const LEAST_MB: u64 = 128;
/// Enough for about ten million locks, megabytes.
const MOST_MB: u64 = 4096;

/// The value for `shared_buffers`, megabytes: a quarter of the memory, as PostgreSQL's manual
/// suggests.
pub(super) fn shared_buffers_mb() -> u64 {
    let known = [of_machine(), of_control_group()]
        .into_iter()
        .flatten()
        .min();
    a_quarter_mb(known.unwrap_or(0))
}

fn a_quarter_mb(bytes: u64) -> u64 {
    (bytes / MB / 4).clamp(LEAST_MB, MOST_MB)
}

/// The memory of a Linux machine, bytes; `None` on other systems.
fn of_machine() -> Option<u64> {
    total(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn total(meminfo: &str) -> Option<u64> {
    let kilobytes = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?
        .trim()
        .strip_suffix(" kB")?;
    kilobytes.parse::<u64>().ok()?.checked_mul(1024)
}

/// In a container, what the whole of it may use.
fn of_control_group() -> Option<u64> {
    fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_within_bounds() {
        assert_eq!(
            [0, 1024 * MB, 8192 * MB, 1 << 50].map(a_quarter_mb),
            [128, 256, 2048, 4096]
        );
    }

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(
            total("MemTotal:       24600 kB\nMemFree: 1 kB\n"),
            Some(24600 * 1024)
        );
        assert_eq!(total("MemFree: 1 kB\n"), None);
        let here = shared_buffers_mb();
        assert!((LEAST_MB..=MOST_MB).contains(&here), "{here}");
    }
}

//! Lengths of time and instants for people.

use chrono::{DateTime, Utc};

/// A length of time: `350 ms`, `1.2 s`, `59 s`, `4 min 30 s`, `2 h 5 min`, `3 d 4 h`. Rounded down,
/// so that a lease is never said to last longer than it does; nothing is shorter than no time.
pub(in crate::cli::client) fn span(ms: i64) -> String {
    let ms = ms.max(0);
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..10 if ms % 1000 >= 100 => format!("{s}.{} s", ms % 1000 / 100),
        1..120 => format!("{s} s"),
        120..7200 => parts(s / 60, "min", s % 60, "s"),
        7200..172_800 => parts(s / 3600, "h", s % 3600 / 60, "min"),
        _ => parts(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

fn parts(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

/// The time until a lease ends. Nothing remains of one that outlives its end by the grace after an
/// outage.
pub(in crate::cli::client) fn remaining(ms: i64) -> String {
    if ms <= 0 {
        "in grace".to_owned()
    } else {
        span(ms)
    }
}

/// An instant to the second, in UTC as everywhere in the service.
pub(in crate::cli::client) fn instant(at: &DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_readable() {
        for (ms, text) in [
            (0, "0 ms"),
            (350, "350 ms"),
            (1000, "1 s"),
            (1234, "1.2 s"),
            (1099, "1 s"),
            (59_999, "59 s"),
            (119_000, "119 s"),
            (120_000, "2 min"),
            (270_000, "4 min 30 s"),
            (7_200_000, "2 h"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
            (-5, "0 ms"),
            (i64::MAX, "106751991167 d 7 h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn instants_are_in_utc() {
        let at = "2026-11-27T05:00:00.123+02:00".parse().unwrap();
        assert_eq!(instant(&at), "2026-11-27 03:00:00 UTC");
    }
}

//! Instants and lengths of time for people.

use std::fmt;

use chrono::{DateTime, Utc};

use super::number::grouped;

/// An instant in relation to now, "3 minutes ago", with the exact instant for machines and on
/// hover. Writes itself: `{{ token.created }}` in a template.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelativeTime {
    at: DateTime<Utc>,
    now: DateTime<Utc>,
}
impl askama::filters::HtmlSafe for RelativeTime {}

impl RelativeTime {
    /// In relation to this machine's clock. For reading only: no clock but the database's decides
    /// anything.
    pub(crate) fn new(at: &DateTime<Utc>) -> Self {
        Self {
            at: *at,
            now: Utc::now(),
        }
    }

    fn words(&self) -> String {
        let seconds = (self.at - self.now).num_seconds();
        let span = match seconds.unsigned_abs() {
            0..=59 => {
                return if seconds > 5 {
                    format!("in {seconds} s")
                } else {
                    "just now".to_owned()
                };
            }
            s @ 60..=3599 => count(s / 60, "minute"),
            s @ 3600..=86_399 => count(s / 3600, "hour"),
            s @ 86_400..=2_591_999 => count(s / 86_400, "day"),
            _ => return self.at.format("%-d %b %Y").to_string(),
        };
        if seconds > 0 {
            format!("in {span}")
        } else {
            format!("{span} ago")
        }
    }
}

fn count(number: u64, unit: &str) -> String {
    if number == 1 {
        format!("1 {unit}")
    } else {
        format!("{number} {unit}s")
    }
}

impl fmt::Display for RelativeTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = self.at.format("%Y-%m-%dT%H:%M:%SZ");
        let exact = self.at.format("%Y-%m-%d %H:%M:%S UTC");
        write!(
            f,
            r#"<time datetime="{machine}" title="{exact}">{}</time>"#,
            self.words()
        )
    }
}

/// `{{ value }}` in a template needs this besides `Display`.
impl askama::FastWritable for RelativeTime {
    fn write_into(&self, dest: &mut dyn fmt::Write, _: &dyn askama::Values) -> askama::Result<()> {
        write!(dest, "{self}")?;
        Ok(())
    }
}

/// A length of time: `60 s`, `5 min`, `24 h`, `1.5 s`.
pub(crate) fn duration(ms: impl Into<i64>) -> String {
    let ms: i64 = ms.into();
    match ms {
        ms if ms % 1000 != 0 => format!("{} s", ms as f64 / 1000.0),
        ms if ms >= 7_200_000 && ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms >= 120_000 && ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms => format!("{} s", grouped(ms / 1000)),
    }
}

/// The time until a lease ends: `59 s`, `4 min 30 s`, `2 h 5 min`. The pages' script writes it in
/// the same way. Nothing remains of a lease that outlives its end by the grace after an outage.
pub(crate) fn remaining(ms: i64) -> String {
    match ms / 1000 {
        0 if ms == 0 => "in grace".to_owned(),
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn instants_are_in_relation_to_now() {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let words = |seconds| {
            RelativeTime {
                at: now + TimeDelta::seconds(seconds),
                now,
            }
            .words()
        };
        assert_eq!(words(-3), "just now");
        assert_eq!(words(-60), "1 minute ago");
        assert_eq!(words(-7200), "2 hours ago");
        assert_eq!(words(90_000), "in 1 day");
        assert_eq!(words(-40 * 86_400), "22 Dec 2025");
        assert!(
            RelativeTime { at: now, now }
                .to_string()
                .contains("datetime=\"2026-01-31T12:00:00Z\"")
        );
    }

    #[test]
    fn lengths_are_readable() {
        assert_eq!(duration(60_000), "60 s");
        assert_eq!(duration(90_000), "90 s");
        assert_eq!(duration(300_000), "5 min");
        assert_eq!(duration(86_400_000), "24 h");
        assert_eq!(duration(1_500), "1.5 s");
    }

    #[test]
    fn remaining_times_are_readable() {
        assert_eq!(remaining(59_900), "59 s");
        assert_eq!(remaining(270_000), "4 min 30 s");
        assert_eq!(remaining(7_500_000), "2 h 5 min");
        assert_eq!(remaining(400), "0 s");
        assert_eq!(remaining(0), "in grace");
    }
}

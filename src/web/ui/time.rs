//! Instants for people: "3 minutes ago", with the exact instant for machines and on hover.

use std::fmt;

use chrono::{DateTime, Utc};

/// An instant that writes itself: `{{ token.created }}` in a template.
#[derive(Debug, Clone, Copy)]
pub(crate) struct When {
    at: DateTime<Utc>,
    now: DateTime<Utc>,
}
impl askama::filters::HtmlSafe for When {}

impl When {
    /// As seen from now. For reading only: no clock but the database's decides anything.
    pub(crate) fn new(at: DateTime<Utc>) -> Self {
        Self {
            at,
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

impl fmt::Display for When {
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

/// `{{ value }}` needs this besides `Display`.
impl askama::FastWritable for When {
    fn write_into(&self, dest: &mut dyn fmt::Write, _: &dyn askama::Values) -> askama::Result<()> {
        write!(dest, "{self}")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn instants_are_told_from_now() {
        let now = "2026-01-31T12:00:00Z".parse().unwrap();
        let words = |seconds| {
            When {
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
            When { at: now, now }
                .to_string()
                .contains("datetime=\"2026-01-31T12:00:00Z\"")
        );
    }
}

//! A line of the log as text: tracing-subscriber's own without colours and without line feeds from
//! fields, at two fifths of its cost. With a line for every request, that one took a quarter of all
//! that was executed for a request outside the engine (docs/performance.md).

use std::cell::RefCell;
use std::fmt::{self, Debug, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats events as lines. Spans are left out: nothing here opens one.
pub(super) struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Text(String::with_capacity(256));
        write_now(&mut line.0)?;
        line.0.push_str(match *event.metadata().level() {
            Level::ERROR => " ERROR",
            Level::WARN => "  WARN",
            Level::INFO => "  INFO",
            Level::DEBUG => " DEBUG",
            Level::TRACE => " TRACE",
        });
        event.record(&mut line);
        line.0.push('\n');
        writer.write_str(&line.0)
    }
}

/// The time to the microsecond. The seconds are written down once a second.
fn write_now(line: &mut String) -> fmt::Result {
    thread_local! {
        static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.as_secs() || text.is_empty() {
            *second = now.as_secs();
            let instant =
                DateTime::<Utc>::from_timestamp(now.as_secs().cast_signed(), 0).unwrap_or_default();
            *text = instant.format("%Y-%m-%dT%H:%M:%S").to_string();
        }
        line.push_str(text);
    });
    write!(line, ".{:06}Z", now.subsec_micros())
}

/// A line in the making. Characters that could steer a terminal or end the line are written as
/// escapes: an error that holds a client's or a server's text must not write lines of its own.
struct Text(String);

impl Text {
    /// True if the field's value comes next; its name stands before it, but for the message.
    fn begin(&mut self, field: &Field) -> bool {
        let name = field.name();
        if name.starts_with("log.") {
            return false;
        }
        self.0.push(' ');
        if name != "message" {
            self.0.push_str(name.strip_prefix("r#").unwrap_or(name));
            self.0.push('=');
        }
        true
    }
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        const LINE_SEPARATOR: char = '\u{2028}';
        const PARAGRAPH_SEPARATOR: char = '\u{2029}';
        let is_harmless = |c: char| match c {
            '\t' => true,
            LINE_SEPARATOR | PARAGRAPH_SEPARATOR => false,
            _ => !c.is_control(),
        };
        if part.bytes().all(|b| (b' '..0x7f).contains(&b)) || part.chars().all(is_harmless) {
            self.0.push_str(part);
            return Ok(());
        }
        for c in part.chars() {
            match c {
                _ if is_harmless(c) => self.0.push(c),
                '\n' => self.0.push_str("\\n"),
                _ => self.0.extend(c.escape_unicode()),
            }
        }
        Ok(())
    }
}

// Writing to a string cannot fail, so what comes back says nothing.
impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.record_debug(field, &format_args!("{value}"));
        }
        if self.begin(field) {
            if value
                .bytes()
                .all(|b| (b' '..0x7f).contains(&b) && b != b'"' && b != b'\\')
            {
                self.0.push('"');
                self.0.push_str(value);
                self.0.push('"');
            } else {
                let _ = write!(self, "{value:?}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.begin(field) {
            let _ = write!(self, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn speak() {
        let error = io::Error::other("no \"way\"");
        let client = std::net::Ipv4Addr::LOCALHOST;
        tracing::info!(
            method = "GET",
            status = 200_u16,
            duration_ms = 1.25,
            whole_ms = 2.0,
            %client,
            "request"
        );
        tracing::info!(
            account_id = Some(7_i64),
            nobody = None::<i64>,
            text = "a \"quoted\" \\ line\nand another",
            "request"
        );
        tracing::warn!(
            %error,
            ?client,
            kind = "acquire",
            requests = 3_usize,
            yes = true,
            "the database's answer is lost"
        );
        tracing::error!("a sentence, with {} in it", 2);
        tracing::error!(r#type = "x", "raw");
    }

    /// Without the time of each line.
    fn said(by: impl Subscriber + Send + Sync + 'static, kept: &Kept) -> Vec<String> {
        tracing::subscriber::with_default(by, speak);
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| line.get(27..).unwrap_or(line).to_owned())
            .collect()
    }

    #[test]
    fn lines_are_those_of_tracing_subscriber() {
        let (theirs, ours) = (Kept::default(), Kept::default());
        let writer = |kept: &Kept| {
            let kept = kept.clone();
            move || kept.clone()
        };
        let formatter = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_target(false)
            .with_writer(writer(&theirs));
        let expected = said(formatter.finish(), &theirs);
        let formatter = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Line)
            .with_writer(writer(&ours));
        assert_eq!(said(formatter.finish(), &ours), expected);
        assert_eq!(
            expected[0],
            "  INFO request method=\"GET\" status=200 duration_ms=1.25 whole_ms=2.0 \
             client=127.0.0.1"
        );
    }

    #[test]
    fn the_time_is_of_now_in_utc() {
        let mut line = String::new();
        write_now(&mut line).unwrap();
        let written: DateTime<Utc> = line.parse().unwrap();
        assert!((Utc::now() - written).num_seconds() < 60, "{line}");
        assert_eq!(line.len(), 27);
    }

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        let mut text = Text(String::new());
        write!(text, "a\u{1b}[31mb\u{9b}\tü").unwrap();
        assert_eq!(text.0, "a\\u{1b}[31mb\\u{9b}\tü");
    }

    #[test]
    fn an_event_is_one_line_whatever_its_fields_hold() {
        let forged =
            "gone\n2026-01-01T00:00:00.000000Z  INFO request\r\u{85}\u{2028}\u{2029}\u{b}end";
        let kept = Kept::default();
        let writer = kept.clone();
        let formatter = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Line)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(formatter.finish(), || {
            let error = io::Error::other(forged);
            tracing::error!(%error, debug = ?error, text = forged, "{forged}");
            tracing::error!(error = &error as &dyn std::error::Error, "an error");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text
            .split(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
            .collect();
        assert_eq!(lines.len(), 3, "two lines and the end: {text:?}");
        assert!(lines[0].contains("error=gone\\n2026"), "{text}");
    }
}

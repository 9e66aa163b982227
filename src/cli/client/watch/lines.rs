//! An event as a line.

use chrono::{DateTime, NaiveDate, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::client::description::{NONE, holder, time_left};
use crate::cli::client::display::{span, visible, visible_json};
use crate::cli::client::v2::{Lock, Message};

/// Between the parts of a line.
const GAP: &str = "  ";

/// Writes events as lines: for people, or as JSON.
#[derive(Debug)]
pub(super) struct Lines {
    is_json: bool,
    /// The day of the last line. Lines have times of the day only.
    day: Option<NaiveDate>,
}

/// The fields of events that people are shown. One that is not there is `None`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    at: Option<DateTime<Utc>>,
    name: Option<String>,
    fencing_token: Option<u64>,
    holder: Option<String>,
    token_label: Option<String>,
    waited_ms: Option<i64>,
    held_ms: Option<i64>,
    reason: Option<String>,
}

impl Lines {
    pub(super) fn new(is_json: bool) -> Self {
        Self { is_json, day: None }
    }

    /// The lines of an event.
    pub(super) fn of(&mut self, message: &Message) -> Vec<String> {
        if self.is_json {
            return vec![json(message)];
        }
        let event: Event = serde_json::from_str(&message.data).unwrap_or_default();
        // The service's clock; this machine's if an event says nothing of it.
        let at = event.at.unwrap_or_else(Utc::now);
        let mut lines = Vec::new();
        if self.day.replace(at.date_naive()) != Some(at.date_naive()) {
            lines.push(at.format("%Y-%m-%d UTC").to_string());
        }
        let mut parts = vec![
            at.format("%H:%M:%S").to_string(),
            format!("{:8}", visible(&message.kind)),
        ];
        if let Some(name) = &event.name {
            parts.push(visible(name).into_owned());
        }
        parts.extend(body(message, &event));
        lines.push(parts.join(GAP));
        lines
    }
}

/// What a line says behind the name.
fn body(message: &Message, event: &Event) -> Vec<String> {
    let by = match message.kind.as_str() {
        "granted" => "to",
        "released" => "by",
        "expired" | "broken" => "of",
        "gap" => return vec![gap(event)],
        "state" => {
            if let Ok(lock) = serde_json::from_str(&message.data) {
                return vec![state(&lock)];
            }
            return vec![visible(&message.data).into_owned()];
        }
        // A kind that this program does not know yet.
        _ => return vec![visible(&message.data).into_owned()],
    };
    let label = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let mut parts = Vec::new();
    if let Some(holder) = label(&event.holder) {
        parts.push(format!("{by} {}", visible(&holder)));
    }
    let details = [
        event.fencing_token.map(|it| format!("fencing token {it}")),
        event.waited_ms.map(|ms| format!("waited {}", span(ms))),
        event.held_ms.map(|ms| format!("held {}", span(ms))),
        label(&event.token_label).map(|it| format!("API token \"{}\"", visible(&it))),
        label(&event.reason).map(|it| format!("reason: {}", visible(&it))),
    ];
    let details: Vec<String> = details.into_iter().flatten().collect();
    if !details.is_empty() {
        parts.push(format!("({})", details.join(", ")));
    }
    parts
}

fn gap(event: &Event) -> String {
    match event.reason.as_deref() {
        Some(reason) => format!("events are missing here: {}", visible(reason)),
        None => "events are missing here".to_owned(),
    }
}

/// A lock as it is now: `held by host1:4711, 59 s left, 2 waiting`.
fn state(lock: &Lock) -> String {
    let leases = lock.leases();
    let mut parts = vec![match leases {
        _ if !lock.is_held() => "free".to_owned(),
        [lease] if holder(lease) != NONE => format!("held by {}", holder(lease)),
        [] | [_] => "held".to_owned(),
        _ => format!("held by {} leases", leases.len()),
    }];
    if let Some(last) = leases.iter().max_by_key(|lease| lease.expires_in_ms)
        && last.expires_in_ms.is_some()
    {
        parts.push(format!("{} left", time_left(last)));
    }
    if let Some(length) = lock.queue_length.filter(|length| *length > 0) {
        parts.push(format!("{length} waiting"));
    }
    parts.join(", ")
}

/// The event's object on one line, with its kind as `event` if it does not say it itself.
fn json(message: &Message) -> String {
    let Message { kind, data } = message;
    let object = match serde_json::from_str(data) {
        Ok(Value::Object(object)) => object,
        Ok(value) => return serde_json::json!({ "event": kind, "data": value }).to_string(),
        Err(_) => return serde_json::json!({ "event": kind, "data": data }).to_string(),
    };
    let text = data.trim().replace(['\n', '\r'], " ");
    let text = if object.contains_key("event") {
        text
    } else {
        let rest = text.trim_start_matches('{').trim_start();
        let comma = if object.is_empty() { "" } else { "," };
        format!("{{\"event\":{}{comma}{rest}", Value::from(kind.as_str()))
    };
    visible_json(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(kind: &str, data: &str) -> Message {
        Message {
            kind: kind.to_owned(),
            data: data.to_owned(),
        }
    }

    fn granted(at: &str, change: impl FnOnce(&mut Value)) -> Message {
        let mut event = json!({
            "id": 7, "event": "granted", "at": at, "namespace": "ci", "name": "nightly",
            "lease_id": "x", "fencing_token": 42, "holder": "host1:4711", "token_label": null,
            "waited_ms": 1234, "held_ms": null, "reason": null,
        });
        change(&mut event);
        message("granted", &event.to_string())
    }

    #[test]
    fn events_are_sentences_under_their_day() {
        let mut lines = Lines::new(false);
        assert_eq!(
            lines.of(&granted("2026-11-27T12:03:04.9Z", |_| {})),
            [
                "2026-11-27 UTC",
                "12:03:04  granted   nightly  to host1:4711  (fencing token 42, waited 1.2 s)"
            ]
        );
        let ended = r#"{"at": "2026-11-27T23:59:59Z", "name": "nightly", "fencing_token": 42,
            "holder": "", "held_ms": 270000, "token_label": "ci", "reason": "stuck, see OPS-7"}"#;
        assert_eq!(
            lines.of(&message("broken", ended)),
            [
                "23:59:59  broken    nightly  (fencing token 42, held 4 min 30 s, \
                 API token \"ci\", reason: stuck, see OPS-7)"
            ]
        );
        assert_eq!(
            lines.of(&granted("2026-11-28T00:00:00Z", |_| {}))[0],
            "2026-11-28 UTC"
        );
    }

    #[test]
    fn gaps_states_and_unknown_kinds_are_shown_too() {
        let mut lines = Lines::new(false);
        let mut line = |kind: &str, data: &str| lines.of(&message(kind, data)).pop().unwrap();
        let at = r#""at": "2026-11-27T12:03:04Z""#;
        assert_eq!(
            line("gap", &format!("{{{at}}}")),
            "12:03:04  gap       events are missing here"
        );
        assert_eq!(
            line("gap", &format!("{{{at}, \"reason\": \"too many\"}}")),
            "12:03:04  gap       events are missing here: too many"
        );
        for (fields, said) in [
            (r#""state": "free", "leases": []"#, "free"),
            (
                r#""state": "held", "queue_length": 2,
                   "leases": [{"holder": "host1:4711", "expires_in_ms": 59000}]"#,
                "held by host1:4711, 59 s left, 2 waiting",
            ),
            (
                r#""state": "held", "leases": [{"expires_in_ms": 9000}, {"expires_in_ms": 500}]"#,
                "held by 2 leases, 9 s left",
            ),
        ] {
            assert_eq!(
                line("state", &format!("{{{at}, \"name\": \"n\", {fields}}}")),
                format!("12:03:04  state     n  {said}")
            );
        }
        assert_eq!(
            line("moved", &format!("{{{at}}}")),
            format!("12:03:04  moved     {{{at}}}")
        );
        assert!(line("state", "nonsense").ends_with("state     nonsense"));
    }

    #[test]
    fn names_and_labels_of_others_cannot_deceive() {
        let deceit = "a\u{202e}b\u{1b}[2J\n12:00:00  released";
        let event = granted("2026-11-27T12:03:04Z", |event| {
            for field in ["name", "holder", "reason", "token_label"] {
                event[field] = deceit.into();
            }
        });
        for is_json in [false, true] {
            let line = Lines::new(is_json).of(&event).pop().unwrap();
            assert!(line.contains("202e"), "{line}");
            assert!(
                !line.contains(|c: char| c.is_control() || c == '\u{202e}'),
                "{line:?}"
            );
        }
    }

    #[test]
    fn objects_are_printed_as_they_came_with_their_kind() {
        let mut lines = Lines::new(true);
        for (data, line) in [
            (
                r#"{"event": "gap", "id": 1}"#,
                r#"{"event": "gap", "id": 1}"#,
            ),
            (
                r#" { "b": 1,"a": 2 } "#,
                r#"{"event":"gap","b": 1,"a": 2 }"#,
            ),
            ("{}", r#"{"event":"gap"}"#),
            ("{\n\"a\": 1}", r#"{"event":"gap","a": 1}"#),
            ("[1]", r#"{"data":[1],"event":"gap"}"#),
            ("x", r#"{"data":"x","event":"gap"}"#),
        ] {
            assert_eq!(lines.of(&message("gap", data)), [line]);
        }
    }
}

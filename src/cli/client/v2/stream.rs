//! Server-Sent Events, as <https://html.spec.whatwg.org/multipage/server-sent-events.html> has
//! them.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Response;

use crate::cli::client::api::RequestError;
use crate::cli::client::clock::{self, BootInstant};
use crate::cli::client::http::causes;

/// A stream without a byte for so long is dead: the service sends a comment every 15 s.
const SILENCE: Duration = Duration::from_secs(45);
/// The longest line and the most data of one event. Events have names, labels and reasons in them,
/// and none of these is long.
const LARGEST: usize = 1 << 20;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli::client) struct Message {
    /// Its kind; `message` if it has none.
    pub(in crate::cli::client) kind: String,
    pub(in crate::cli::client) data: String,
}

/// An open stream.
#[derive(Debug)]
pub(in crate::cli::client) struct EventStream {
    response: Response,
    parser: Parser,
    messages: VecDeque<Message>,
}

impl EventStream {
    pub(super) fn new(response: Response) -> Self {
        Self {
            response,
            parser: Parser::default(),
            messages: VecDeque::new(),
        }
    }

    /// The id behind which a new stream goes on, once this one has sent one.
    pub(in crate::cli::client) fn last_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// How long the service asks to be left alone before a new stream.
    pub(in crate::cli::client) fn retry(&self) -> Duration {
        self.parser.retry
    }

    /// The next event.
    ///
    /// # Errors
    /// [`RequestError::Unavailable`] at the end of the stream, which is followed on a new one.
    pub(in crate::cli::client) async fn next(&mut self) -> Result<Message, RequestError> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            let silent_at = BootInstant::now() + SILENCE;
            let chunk = clock::timeout_at(silent_at, self.response.chunk()).await;
            let sentence = match chunk {
                Some(Ok(Some(bytes))) => {
                    if self.parser.read(&bytes, &mut self.messages) {
                        continue;
                    }
                    "the stream has an event that is too long".to_owned()
                }
                Some(Ok(None)) => "the service closed the stream".to_owned(),
                Some(Err(error)) => format!("the stream broke off: {}", causes(&error)),
                None => format!("the stream was silent for {} s", SILENCE.as_secs()),
            };
            return Err(RequestError::unavailable(sentence));
        }
    }
}

/// What was read of the stream and makes no whole event yet.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    /// True behind a CR, which an LF may belong to.
    is_after_cr: bool,
    is_begun: bool,
    kind: String,
    data: String,
    /// The id of the event that is being read, or of the last one that had one.
    id: Option<String>,
    /// The same of the last whole event.
    last_id: Option<String>,
    retry: Duration,
}

impl Parser {
    /// Adds the whole events. False if a line or an event is too long.
    fn read(&mut self, bytes: &[u8], messages: &mut VecDeque<Message>) -> bool {
        for &byte in bytes {
            let is_second_half = std::mem::replace(&mut self.is_after_cr, byte == b'\r');
            match byte {
                b'\n' if is_second_half => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    messages.extend(self.end_line(&line));
                }
                _ => self.line.push(byte),
            }
            if self.line.len() > LARGEST || self.data.len() > LARGEST {
                return false;
            }
        }
        true
    }

    /// The event that ends with this line.
    fn end_line(&mut self, line: &[u8]) -> Option<Message> {
        let line = String::from_utf8_lossy(line);
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let line = match line.strip_prefix('\u{feff}') {
            Some(rest) if is_first => rest,
            _ => &line,
        };
        if line.is_empty() {
            return self.end_event();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => {
                self.id = Some(value.to_owned()).filter(|id| !id.is_empty());
            }
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().map_or(self.retry, Duration::from_millis);
            }
            // A comment, which begins with a colon, or a field that is not known.
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<Message> {
        self.last_id.clone_from(&self.id);
        let kind = std::mem::take(&mut self.kind);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?;
        Some(Message {
            kind: if kind.is_empty() {
                "message".to_owned()
            } else {
                kind
            },
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> (Vec<Message>, Parser) {
        let mut parser = Parser::default();
        let mut messages = VecDeque::new();
        for chunk in chunks {
            assert!(parser.read(chunk, &mut messages));
        }
        (messages.into(), parser)
    }

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let text = b"\xef\xbb\xbfretry: 250\n: hello\n\nid: 7\nevent: granted\ndata: {\"a\":1}\n\n\
            event:state\ndata:x\ndata:  y\nnonsense\n\ndata\n\nevent: lost\n\nid: 8\ndata: cut off";
        let (messages, parser) = read(&[text]);
        let short: Vec<_> = messages
            .iter()
            .map(|it| (it.kind.as_str(), it.data.as_str()))
            .collect();
        assert_eq!(
            short,
            [
                ("granted", "{\"a\":1}"),
                ("state", "x\n y"),
                ("message", "")
            ]
        );
        assert_eq!(parser.retry, Duration::from_millis(250));
        assert_eq!(parser.last_id.as_deref(), Some("7"));
    }

    #[test]
    fn an_id_may_come_without_an_event_and_counts_once_it_is_whole() {
        for (text, last_id) in [
            (&b"id: 5\n\n"[..], Some("5")),
            (b"id: 5\n", None),
            (b"id: 5\n\nid: 6\n", Some("5")),
            (b"id: 5\n\nid\n\n", None),
            (b"id: 5\n\nid: a\0b\n\n", Some("5")),
        ] {
            let (messages, parser) = read(&[text]);
            assert_eq!(messages, []);
            assert_eq!(parser.last_id.as_deref(), last_id, "{text:?}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        let mut messages = VecDeque::new();
        assert!(parser.read(b"data: ", &mut messages));
        assert!(!parser.read(&vec![b'x'; LARGEST], &mut messages));
        let mut parser = Parser::default();
        let lines = b"data: a line that has an end\n".repeat(LARGEST / 20);
        assert!(!parser.read(&lines, &mut messages));
    }

    proptest! {
        /// Wherever the network cuts the stream, and however its lines end.
        #[test]
        fn chunks_and_line_ends_make_no_difference(
            cuts in proptest::collection::vec(0_usize..60, 0..6),
            end in "\n|\r|\r\n",
        ) {
            let text = "id: 1\nevent: granted\ndata: ä\ndata: b\n\n:\n\ndata: c\nid: 2\n\n";
            let expected = read(&[text.as_bytes()]);
            let text = text.replace('\n', &end);
            let mut cuts: Vec<usize> = cuts.iter().map(|at| at % text.len()).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                chunks.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            let found = read(&chunks);
            prop_assert_eq!(found.0, expected.0);
            prop_assert_eq!(found.1.last_id, expected.1.last_id);
        }
    }
}

//! Where lines go. The line of a request waits a moment for others, so that they are written
//! together: a write for each was a twelfth of the service's processor time under load
//! (docs/performance.md). Whatever else is said is written at once, and in order.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long the line of a request may wait. A process that is killed takes that much of its log
/// with it.
const PATIENCE: Duration = Duration::from_millis(20);
/// Bytes that are written without waiting for more.
const ENOUGH: usize = 32 * 1024;
/// What the lines of requests are logged as (`transport::edge`).
const REQUEST: &str = "lockable::request";

/// Writes lines to a sink. Cheap to clone.
#[derive(Clone)]
pub(super) struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    begun: Condvar,
}

struct State {
    sink: Box<dyn Write + Send>,
    waiting: Vec<u8>,
    /// The thread that writes what has waited long enough; started by the first line that waits.
    is_watched: bool,
}

impl State {
    fn write_waiting(&mut self) {
        // As in `eprintln!`'s case, there is nobody to tell of a log that cannot be written.
        let _ = self.sink.write_all(&self.waiting);
        self.waiting.clear();
    }
}

impl Output {
    pub(super) fn new(sink: impl Write + Send + 'static) -> Self {
        let state = State {
            sink: Box::new(sink),
            waiting: Vec::new(),
            is_watched: false,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            begun: Condvar::new(),
        }))
    }

    pub(super) fn flush_at_end(&self) -> Flush {
        Flush(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &[u8], may_wait: bool) {
        let mut state = self.state();
        state.waiting.extend_from_slice(line);
        if !may_wait || state.waiting.len() >= ENOUGH {
            state.write_waiting();
        } else if state.waiting.len() == line.len() {
            if !state.is_watched {
                state.is_watched = true;
                let watched = self.clone();
                if std::thread::Builder::new()
                    .name("log".to_owned())
                    .spawn(move || watched.watch())
                    .is_err()
                {
                    state.is_watched = false;
                    state.write_waiting();
                }
            }
            drop(state);
            self.0.begun.notify_one();
        }
    }

    fn watch(&self) {
        loop {
            let mut state = self.state();
            while state.waiting.is_empty() {
                state = self
                    .0
                    .begun
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            std::thread::sleep(PATIENCE);
            self.state().write_waiting();
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry {
            output: self,
            may_wait: false,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Entry<'a> {
        Entry {
            output: self,
            may_wait: meta.target() == REQUEST && *meta.level() >= Level::INFO,
        }
    }
}

/// Writes what waits when it is dropped: at the end of the process, whatever the last lines were.
#[must_use]
pub struct Flush(Output);

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.state().write_waiting();
    }
}

/// Takes one event's line.
pub(super) struct Entry<'a> {
    output: &'a Output,
    may_wait: bool,
}

impl Write for Entry<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.output.write(line, self.may_wait);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.state().write_waiting();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Sent(mpsc::Sender<String>);

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn said(by: impl FnOnce()) -> mpsc::Receiver<String> {
        let (sender, written) = mpsc::channel();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(Output::new(Sent(sender)));
        tracing::subscriber::with_default(lines.finish(), by);
        written
    }

    fn request() {
        tracing::info!(target: "lockable::request", "one");
    }

    #[test]
    fn lines_of_requests_are_written_together_and_without_another_line_after_them() {
        let written = said(|| (0..200).for_each(|_| request()));
        let (mut text, mut writes) = (String::new(), 0);
        while text.lines().count() < 200 {
            text += &written.recv().unwrap();
            writes += 1;
        }
        assert!(writes < 200, "each was written by itself");
        assert!(
            text.lines()
                .all(|line| line == " INFO lockable::request: one"),
            "{text}"
        );
    }

    #[test]
    fn anything_else_is_written_at_once_behind_what_waits() {
        let written = said(|| {
            (0..3).for_each(|_| request());
            tracing::info!("stopped");
        });
        let text: String = written.try_iter().collect();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.ends_with("stopped\n"), "{text}");
    }

    #[test]
    fn what_waits_is_written_at_the_end() {
        let (sender, written) = mpsc::channel();
        let output = Output::new(Sent(sender));
        let end = output.flush_at_end();
        output.write(b"one\n", true);
        drop(end);
        assert_eq!(written.try_iter().collect::<String>(), "one\n");
    }

    #[test]
    fn many_lines_are_not_kept_waiting() {
        let written = said(|| (0..ENOUGH / 20).for_each(|_| request()));
        assert!(written.try_iter().map(|text| text.len()).sum::<usize>() >= ENOUGH);
    }
}

//! The way of log lines to their reader, who may be slow, or may not read at all.
//!
//! Lines are put into a bounded buffer and written by a thread of their own: a request never waits
//! for the reader, and a line that does not fit is dropped and counted. Lines of requests are
//! written together, up to [`LINGER`] after the first of them: one system call for each was a large
//! part of a request. Any other line is written at once, behind the lines that wait.
//!
//! ```text
//! requests  ──line──line────line─────┐        ┌──line───line──── …
//! thread        └─ lingers 20 ms ─┘ write (may block) └─ lingers …
//! ```
//!
//! Not tracing-appender: its channel takes an allocation and a wake-up for each line, it writes
//! lines one by one, and does not say in the log that lines are missing.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long the line of a request may wait for others. A process that is killed takes that much of
/// its log with it.
const LINGER: Duration = Duration::from_millis(20);
/// Bytes that are written without waiting for more.
const ENOUGH: usize = 32 * 1024;
/// Bytes that wait at most: the lines of some ten thousand requests.
const CAPACITY: usize = 2 * 1024 * 1024;
/// Bytes that an empty buffer keeps of what it once took.
const KEPT_CAPACITY: usize = 256 * 1024;
/// How long the end of the process waits for the reader.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before another try, where the reader's end does not block and is full.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// The target of the lines of requests (`transport::edge`).
const REQUEST: &str = "lockable::request";

/// Called when a line is dropped.
pub(super) type OnDrop = fn();
/// Called by the writer when lines are written again, with the number of those dropped before.
pub(super) type OnRecovery = Box<dyn Fn(u64) + Send>;

/// Takes lines for a sink. Cheap to clone.
#[derive(Clone)]
pub(super) struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Told to the writer: lines wait.
    waiting: Condvar,
    /// Told to flushes: lines were written.
    written: Condvar,
    on_drop: OnDrop,
}

struct State {
    lines: Vec<u8>,
    /// Lines since the writer took the last ones that did not fit.
    dropped: u64,
    /// A line waits that is not to wait for others.
    is_urgent: bool,
    is_writing: bool,
    /// Until the writer's thread has it.
    writer: Option<Writer>,
    /// The first line starts the thread: a command that logs nothing has none.
    has_thread: bool,
}

impl Output {
    pub(super) fn new(
        sink: impl Write + Send + 'static,
        on_drop: OnDrop,
        on_recovery: OnRecovery,
    ) -> Self {
        let writer = Writer {
            sink: Box::new(sink),
            unreported: 0,
            on_recovery,
        };
        let state = State {
            lines: Vec::new(),
            dropped: 0,
            is_urgent: false,
            is_writing: false,
            writer: Some(writer),
            has_thread: false,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            waiting: Condvar::new(),
            written: Condvar::new(),
            on_drop,
        }))
    }

    pub(super) fn flush_at_end(&self) -> Flush {
        Flush(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never blocks for longer than it takes to copy a line.
    fn push(&self, line: &[u8], may_linger: bool) {
        let mut state = self.state();
        if state.lines.len() + line.len() > CAPACITY {
            state.dropped += 1;
            drop(state);
            return (self.0.on_drop)();
        }
        let was_enough = state.lines.len() >= ENOUGH;
        let is_first = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        let is_new_urgency = !may_linger && !state.is_urgent;
        state.is_urgent |= !may_linger;
        let is_due = is_first || is_new_urgency || (!was_enough && state.lines.len() >= ENOUGH);
        if !state.has_thread {
            let output = self.clone();
            let thread = std::thread::Builder::new().name("log".to_owned());
            // Without a thread lines can only wait for better times: the next line tries again.
            state.has_thread = thread.spawn(move || output.write_on()).is_ok();
        }
        drop(state);
        if is_due {
            self.0.waiting.notify_one();
        }
    }

    /// Writes lines for as long as the process lives.
    fn write_on(&self) {
        let Some(mut writer) = self.state().writer.take() else {
            return;
        };
        let mut lines = Vec::new();
        loop {
            let mut state = self
                .0
                .waiting
                .wait_while(self.state(), |state| state.lines.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            if !state.is_urgent && state.lines.len() < ENOUGH {
                state = self
                    .0
                    .waiting
                    .wait_timeout_while(state, LINGER, |state| {
                        !state.is_urgent && state.lines.len() < ENOUGH
                    })
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
            std::mem::swap(&mut state.lines, &mut lines);
            let dropped = std::mem::take(&mut state.dropped);
            state.is_urgent = false;
            state.is_writing = true;
            drop(state);
            writer.write(&lines, dropped, self.0.on_drop);
            lines.clear();
            lines.shrink_to(KEPT_CAPACITY);
            self.state().is_writing = false;
            self.0.written.notify_all();
        }
    }

    /// Waits until the lines so far are written, for a reader that reads.
    fn flush(&self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut state = self.state();
        state.is_urgent = true;
        self.0.waiting.notify_one();
        while !state.lines.is_empty() || state.is_writing {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            state = self
                .0
                .written
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.is_urgent = true;
        }
    }
}

/// The thread's part: the sink, and the account of lines that it did not get.
struct Writer {
    sink: Box<dyn Write + Send>,
    unreported: u64,
    on_recovery: OnRecovery,
}

impl Writer {
    /// Writes lines; `dropped` more were dropped behind them.
    fn write(&mut self, lines: &[u8], dropped: u64, on_drop: OnDrop) {
        match self.write_all(lines) {
            Ok(()) => {
                self.unreported += dropped;
                if self.unreported > 0 {
                    (self.on_recovery)(std::mem::take(&mut self.unreported));
                }
            }
            // A full disk, a reader that has gone: there is nobody else to tell.
            Err(rest) => {
                let lost = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
                (0..lost).for_each(|_| on_drop());
                self.unreported += lost + dropped;
            }
        }
    }

    /// Returns what could not be written.
    fn write_all<'a>(&mut self, mut lines: &'a [u8]) -> Result<(), &'a [u8]> {
        while !lines.is_empty() {
            match self.sink.write(lines) {
                Ok(0) => return Err(lines),
                Ok(written) => lines = &lines[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A descriptor that another program has set so: this thread has the time.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(_) => return Err(lines),
            }
        }
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry {
            output: self,
            may_linger: false,
        }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Entry<'a> {
        Entry {
            output: self,
            may_linger: meta.target() == REQUEST && *meta.level() >= Level::INFO,
        }
    }
}

/// Writes the lines that wait when it is dropped: at the end of the process.
#[must_use]
pub struct Flush(Output);

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Takes one event's line.
pub(super) struct Entry<'a> {
    output: &'a Output,
    may_linger: bool,
}

impl Write for Entry<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.output.push(line, self.may_linger);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
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

    fn to(sink: impl Write + Send + 'static) -> Output {
        Output::new(sink, || {}, Box::new(|_| {}))
    }

    fn logged(by: impl FnOnce()) -> mpsc::Receiver<String> {
        let (sender, written) = mpsc::channel();
        let output = to(Sent(sender));
        let end = output.flush_at_end();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .without_time()
            .with_writer(output);
        tracing::subscriber::with_default(lines.finish(), by);
        drop(end);
        written
    }

    fn request() {
        tracing::info!(target: "lockable::request", "one");
    }

    #[test]
    fn lines_of_requests_are_written_together() {
        let written = logged(|| (0..200).for_each(|_| request()));
        let writes: Vec<String> = written.try_iter().collect();
        assert!(writes.len() < 200, "each was written by itself");
        let text = writes.concat();
        assert_eq!(text.lines().count(), 200);
        assert!(
            text.lines()
                .all(|line| line == " INFO lockable::request: one"),
            "{text}"
        );
    }

    #[test]
    fn lines_of_requests_do_not_wait_for_another_line() {
        let (sender, written) = mpsc::channel();
        let output = to(Sent(sender));
        output.push(b"one\n", true);
        assert_eq!(written.recv().unwrap(), "one\n");
        // And once more, by the same thread.
        output.push(b"two\n", true);
        assert_eq!(written.recv().unwrap(), "two\n");
    }

    #[test]
    fn anything_else_is_written_behind_the_lines_that_wait() {
        let written = logged(|| {
            (0..3).for_each(|_| request());
            tracing::info!("stopped");
        });
        let text: String = written.try_iter().collect();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.ends_with("stopped\n"), "{text}");
    }

    /// A sink that takes nothing until it is opened.
    struct Closed(mpsc::Receiver<()>, Sent);

    impl Write for Closed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_nobodys_time() {
        let (open, opened) = mpsc::channel();
        let (sender, written) = mpsc::channel();
        let (reported, reports) = mpsc::channel();
        let output = Output::new(
            Closed(opened, Sent(sender)),
            || {},
            Box::new(move |dropped| reported.send(dropped).unwrap()),
        );
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        // Twice what fits, urgent and not. It would hang here.
        let lines = 2 * (CAPACITY + ENOUGH) / line.len();
        (0..lines).for_each(|at| output.push(&line, at % 2 == 0));
        let flush = Instant::now();
        output.flush();
        assert!(flush.elapsed() >= FLUSH_TIMEOUT, "it waited in vain");
        assert!(reports.try_recv().is_err(), "there is nobody to tell yet");
        drop(open);
        let dropped = reports.recv().unwrap();
        output.flush();
        let got: usize = written.try_iter().map(|text| text.lines().count()).sum();
        assert_eq!(got as u64 + dropped, lines as u64);
        assert!(got >= CAPACITY / line.len() && dropped > 0);
    }

    /// A disk that is full for the first two writes.
    struct Full(u32, Sent);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 > 0 {
                self.0 -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.1.write(&bytes[..bytes.len().min(3)])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_for_a_full_disk_are_counted_and_reported_when_it_has_room() {
        let (sender, written) = mpsc::channel();
        let (reported, reports) = mpsc::channel();
        let output = Output::new(
            Full(2, Sent(sender)),
            || {},
            Box::new(move |dropped| reported.send(dropped).unwrap()),
        );
        for line in [b"one\n", b"two\n"] {
            output.push(line, false);
            output.flush();
        }
        assert!(reports.try_recv().is_err());
        output.push(b"three\n", false);
        assert_eq!(reports.recv().unwrap(), 2);
        assert_eq!(written.try_iter().collect::<String>(), "three\n");
    }
}

//! Standard output of the commands that show locks.

use std::io::{self, ErrorKind, IsTerminal, Write};

/// What became of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Printed {
    Whole,
    /// Nobody reads any more (`| head`): there is no reason to go on, and none to complain.
    ReaderIsGone,
}

/// Writes lines now, whatever standard output is.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn print(lines: &[impl AsRef<str>]) -> io::Result<Printed> {
    match write(lines) {
        Ok(()) => Ok(Printed::Whole),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Printed::ReaderIsGone),
        Err(error) => Err(error),
    }
}

fn write(lines: &[impl AsRef<str>]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for line in lines {
        writeln!(stdout, "{}", line.as_ref())?;
    }
    stdout.flush()
}

/// The columns of the terminal that standard output is; `None` if it is no terminal.
pub(super) fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

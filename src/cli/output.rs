//! The standard output of commands: columns for people, JSON for programs.

use std::io::{ErrorKind, Write};

use serde::Serialize;

/// Writes a line. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn line(text: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Writes a text of many lines as it is. A reader that has gone is no error.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn bytes(text: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Writes a value as JSON, with line breaks.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string_pretty(value)?)?)
}

/// Writes rows in columns under a heading.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> std::io::Result<()> {
    let mut widths: Vec<usize> = heading.iter().map(|title| title.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}", width = *width))
            .collect();
        line(padded.join("  ").trim_end())
    };
    print(&heading.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    rows.iter().try_for_each(|row| print(row))
}

/// Writes names and values, one a line.
///
/// # Errors
/// If standard output cannot be written.
pub(super) fn fields(pairs: &[(&str, String)]) -> std::io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .try_for_each(|(name, value)| line(&format!("{name:width$}  {value}")))
}

/// Writes a line to standard error, with the program's name in front. An error of the
/// writing is ignored, because there is nowhere to report it: `eprintln!` would end the process.
pub(super) fn error(message: impl std::fmt::Display) {
    notice(format_args!("lockable: {message}"));
}

/// Writes a line to standard error as it is; an error of the writing is ignored as in [`error`].
pub(super) fn notice(line: impl std::fmt::Display) {
    // One write, so that lines of several processes do not mix. Not through the standard library's
    // lock: whoever waits for a reader in it would keep others waiting, at the program's end too.
    let _ = nix::unistd::write(std::io::stderr(), format!("{line}\n").as_bytes());
}

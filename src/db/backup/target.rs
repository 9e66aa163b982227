//! The place that a backup is written to.
//!
//! A regular file is replaced in one step, when the new one is complete; a link is followed to it.
//! Everything else (a device, a pipe, standard output) is written to as it is, and stays what it
//! is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::super::children;

/// Stands for standard output, and for standard input where a backup is read.
pub(super) const STANDARD_STREAM: &str = "-";

/// As many links after another as Linux follows.
const LONGEST_CHAIN: usize = 40;

/// An open target.
pub(super) enum Target {
    /// A regular file that takes its name only when it is complete.
    Replacement(Replacement),
    /// Something that is written to directly.
    Stream(File),
}

/// The outcome of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A file of this size, bytes.
    File(u64),
    /// A device or a pipe.
    Stream,
    /// Standard output, which nothing else may be written to.
    StandardOutput,
}

impl Target {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new(STANDARD_STREAM) {
            let output = io::stdout();
            if output.is_terminal() {
                return Err(io::Error::other(
                    "it is a terminal, and a backup is no text: redirect it",
                ));
            }
            let output = output.as_fd().try_clone_to_owned()?;
            return Ok(Self::Stream(output.into()));
        }
        // The system's word on whether the path may be followed, before it is followed by hand.
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(meta) if !meta.is_file() => return Self::open_stream(path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
        match follow(std::path::absolute(path)?)? {
            Followed::Descriptor => Self::open_stream(path),
            Followed::File(file) => Replacement::create(&file).map(Self::Replacement),
        }
    }

    fn open_stream(path: &Path) -> io::Result<Self> {
        let stream = File::options().write(true).open(path)?;
        children::close_foreign_descriptors();
        Ok(Self::Stream(stream))
    }

    /// The standard output for the program that makes the backup.
    pub(super) fn stdio(&self) -> io::Result<Stdio> {
        let file = match self {
            Self::Replacement(replacement) => &replacement.file,
            Self::Stream(stream) => stream,
        };
        file.try_clone().map(Stdio::from)
    }

    /// The state of the target after a failure.
    pub(super) fn after_failure(&self) -> &'static str {
        match self {
            Self::Replacement(_) => "no backup was written",
            Self::Stream(_) => "the backup is not complete",
        }
    }

    /// Ends a backup that is complete.
    pub(super) fn keep(self) -> io::Result<Written> {
        match self {
            Self::Replacement(replacement) => replacement.keep().map(Written::File),
            Self::Stream(stream) => {
                match stream.sync_all() {
                    // Only what has a disk behind it can be flushed.
                    Err(error) if error.kind() != io::ErrorKind::InvalidInput => return Err(error),
                    _ => {}
                }
                Ok(if is_standard_output(&stream) {
                    Written::StandardOutput
                } else {
                    Written::Stream
                })
            }
        }
    }
}

/// True for `-`, and also for `/dev/stdout` and its like.
fn is_standard_output(stream: &File) -> bool {
    let output = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino()));
    match (
        output.and_then(|output| identity(&output)),
        identity(stream),
    ) {
        (Ok(output), Ok(stream)) => output == stream,
        _ => false,
    }
}

enum Followed {
    /// One of this process's open descriptors: only its own path leads to it.
    Descriptor,
    /// A regular file, or one that is not there yet.
    File(PathBuf),
}

fn follow(mut path: PathBuf) -> io::Result<Followed> {
    for _ in 0..LONGEST_CHAIN {
        if path.starts_with("/proc") || path.starts_with("/dev/fd") {
            return Ok(Followed::Descriptor);
        }
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) =>
            {
                return Ok(Followed::File(path));
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many links lead on from it"))
}

/// A regular file that takes its name only when it is complete.
///
/// A small shell waits beside this process to give it the name, with the rights that the command
/// was started with; should this process fail or be killed, it removes what was written.
pub(super) struct Replacement {
    file: File,
    renamer: Child,
}

impl Replacement {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target
            .file_name()
            .ok_or(io::Error::from(io::ErrorKind::IsADirectory))?;
        let mut unfinished = OsString::from(".");
        unfinished.push(name);
        unfinished.push(format!(".{}", std::process::id()));
        let unfinished = target.with_file_name(unfinished);
        // Only its owner may read it: it has everybody's password hashes.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        children::close_foreign_descriptors();
        let renamer = children::command("/bin/sh")
            .args([
                "-c",
                "if read line; then mv -f -- \"$1\" \"$2\"; else rm -f -- \"$1\"; fi",
                "lockable-backup",
            ])
            .args([&unfinished, target])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { file, renamer })
    }

    fn keep(mut self) -> io::Result<u64> {
        self.file.sync_all()?;
        let size = self.file.metadata()?.len();
        if let Some(mut stdin) = self.renamer.stdin.take() {
            stdin.write_all(b"\n")?;
        }
        if self.renamer.wait()?.success() {
            Ok(size)
        } else {
            Err(io::Error::other("the new file cannot be renamed to this"))
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // End of file: the shell removes what is unfinished.
        drop(self.renamer.stdin.take());
        let _ = self.renamer.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn an_unfinished_file_leaves_nothing_and_a_finished_one_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("b.dump");
        drop(Target::open(&target).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let Target::Replacement(new) = Target::open(&target).unwrap() else {
            panic!("a regular file is replaced");
        };
        (&new.file).write_all(b"data").unwrap();
        assert!(!target.exists());
        assert_eq!(new.keep().unwrap(), 4);
        let mode = fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn links_are_followed_to_files_and_not_beyond_descriptors() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        fs::create_dir(dir.join("sub")).unwrap();
        symlink("sub/second", dir.join("first")).unwrap();
        symlink("../file", dir.join("sub/second")).unwrap();
        symlink("/dev/fd/1", dir.join("output")).unwrap();
        symlink("round", dir.join("round")).unwrap();
        let of = |name: &str| follow(dir.join(name));
        let Ok(Followed::File(file)) = of("first") else {
            panic!("it is a file that is not there yet");
        };
        assert_eq!(file.parent().unwrap().canonicalize().unwrap(), dir);
        assert!(matches!(of("output"), Ok(Followed::Descriptor)));
        assert!(of("round").is_err());
        assert!(matches!(Target::open(&dir), Err(error)
            if error.kind() == io::ErrorKind::IsADirectory));
    }
}

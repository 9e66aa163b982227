//! Daemons: processes that have left the job on purpose.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::cli::client::processes::Process;

/// Standard input, output and error of the job, as far as they lead anywhere.
#[derive(Debug)]
pub(super) struct Streams(Vec<FileId>);

/// Device and number of a file.
type FileId = (u64, u64);

impl Streams {
    /// The watchdog's own standard output and error are the job's too.
    ///
    /// # Errors
    /// If the files cannot be looked at.
    pub(super) fn of_job(stdin: &OwnedFd) -> io::Result<Self> {
        let stdin = std::fs::File::from(stdin.try_clone()?).metadata()?;
        let mut files = Vec::from_iter(id_unless_null(&stdin));
        files.extend(
            [1, 2]
                .into_iter()
                .filter_map(|number| open_file("self", number)),
        );
        Ok(Self(files))
    }

    /// True if any of the process's three is one of the job's. False for another user's process,
    /// whose files cannot be seen.
    fn are_used_by(&self, pid: i32) -> bool {
        (0..=2)
            .filter_map(|number| open_file(&pid.to_string(), number))
            .any(|file| self.0.contains(&file))
    }
}

/// True if this child of the watchdog is a daemon: the parent that it had is gone, it has a session
/// of its own, and has let go of the job's standard input, output and error.
pub(super) fn is_daemon(process: &Process, own_session: i32, streams: &Streams) -> bool {
    process.session != own_session && !streams.are_used_by(process.id.pid)
}

fn open_file(process: &str, number: i32) -> Option<FileId> {
    let metadata = std::fs::metadata(format!("/proc/{process}/fd/{number}")).ok()?;
    id_unless_null(&metadata)
}

/// `None` for the null device, which says nothing about who uses it.
fn id_unless_null(metadata: &std::fs::Metadata) -> Option<FileId> {
    let is_null = metadata.file_type().is_char_device()
        && std::fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == metadata.rdev());
    (!is_null).then(|| (metadata.dev(), metadata.ino()))
}

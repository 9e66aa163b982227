//! Why an embedded cluster does not run, in sentences that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::owner::OwnerError;
use super::programs::{OLDEST_MAJOR, Programs};
use super::shell;

/// Why the embedded cluster does not run.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// Another process has the data directory.
    #[error(
        "the data directory {dir} is in use by another lockable (process {pid}): stop that one, \
         or choose another place with \
         --data-dir"
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, as it wrote itself.
        pid: String,
    },
    /// There are no programs.
    #[error(
        "no PostgreSQL {OLDEST_MAJOR} or newer found on this machine ($PG_BIN, PATH, \
         /usr/lib/postgresql/*/bin, Homebrew).\n\
         Install it (Debian, Ubuntu: apt-get install postgresql; macOS: brew install \
         postgresql@17), say where it is with \
         PG_BIN=/folder/of/its/programs, or use a PostgreSQL that runs elsewhere with DATABASE_URL"
    )]
    NoPrograms,
    /// The cluster was made by another major version.
    #[error("{}", other_major(.cluster, *.of, .programs))]
    OtherMajor {
        /// Its folder.
        cluster: PathBuf,
        /// The version that made it.
        of: u32,
        /// The best programs that are here.
        programs: Programs,
    },
    /// There is something else in the place of the cluster.
    #[error(
        "{0} is there, but it is no PostgreSQL cluster: move it away, or choose another place \
         with --data-dir"
    )]
    NoCluster(PathBuf),
    /// The socket's folder in /tmp belongs to somebody else.
    #[error(
        "{0} belongs to somebody else; the socket would go there because the data directory's \
         path is too long: choose a shorter --data-dir"
    )]
    SocketDirTaken(PathBuf),
    /// PostgreSQL's settings and tools cannot name the place.
    #[error(
        "the path {0:?} is not UTF-8, or has a line break or another control character in it: \
         choose another --data-dir"
    )]
    UnusablePath(PathBuf),
    /// Another process runs this cluster, which it reaches by another data directory.
    #[error(
        "the cluster {0} is in use by another lockable, with another data directory that leads to \
         it: stop that one, or choose another place with --data-dir"
    )]
    ClusterInUse(PathBuf),
    /// A PostgreSQL from before does not go away.
    #[error(
        "a PostgreSQL (process {pid}) from before still runs on {cluster} and does not stop: stop \
         it, then try again"
    )]
    OrphanStays {
        /// Its process.
        pid: i32,
        /// Its folder.
        cluster: PathBuf,
    },
    /// One of PostgreSQL's programs failed.
    #[error("{program} failed: {said}")]
    Program {
        /// Which.
        program: String,
        /// Its exit status and last words.
        said: String,
    },
    /// The user or the data directory will not do.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// A file could not be had.
    #[error("cannot {what} {path}: {error}")]
    File {
        /// The attempt, as a verb.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

impl EmbeddedError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::File { what, path, error }
    }
}

fn other_major(cluster: &Path, of: u32, programs: &Programs) -> String {
    let (bin, major) = (shell::word(&programs.bin), programs.major);
    let old = shell::word(cluster);
    let data_dir = shell::word(cluster.parent().unwrap_or(cluster));
    let go_on = format!(
        "the data in {old} was made by PostgreSQL {of}, and this machine has PostgreSQL {major} \
         ({bin}).\n\
         To go on with {of}: install its programs (Debian: apt-get install postgresql-{of}), \
         beside the others, or say where they are with PG_BIN."
    );
    if of > major {
        return go_on;
    }
    format!(
        "{go_on}\n\
         To upgrade the data, with the programs of both versions installed, as the user who owns \
         {old}:\n  \
         cd {data_dir}\n  \
         {bin}/initdb -D {old}.{major} -U postgres -A trust -E UTF8 --locale=C --data-checksums\n  \
         {bin}/pg_upgrade -U postgres -b /usr/lib/postgresql/{of}/bin -B {bin} -d {old} -D \
         {old}.{major}\n  \
         mv {old} {old}.{of} && mv {old}.{major} {old}\n\
         then start lockable again, and remove {old}.{of} when all is well."
    )
}

//! The owner of the data, and how a process started as root becomes that user.
//!
//! PostgreSQL refuses to run as root, and nothing that parses requests should: the whole process
//! becomes an unprivileged user, which `lockable` names if the machine has it, else `postgres`.
//! Never `nobody`, whom other daemons share.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{User, geteuid};

use super::shell;

/// Users that a process started as root may become, best first.
const CANDIDATES: [&str; 2] = ["lockable", "postgres"];

/// Why this process cannot become an unprivileged user.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// There is no user to become.
    #[error(
        "started as root, but this machine has neither a user `lockable` nor `postgres` to run \
         as; make one with:\n  \
         useradd --system --home-dir /var/lib/lockable --shell /usr/sbin/nologin lockable"
    )]
    NoUser,
    /// The data belongs to somebody whom this process will not become.
    #[error(
        "{dir} belongs to {owner}, and the service does not run as that user; give it to one of \
         its own:\n  chown -R {to} {word}"
    )]
    WrongOwner {
        /// The data directory.
        dir: String,
        /// The same for a shell.
        word: String,
        /// Its owner.
        owner: String,
        /// A user that could own it.
        to: String,
    },
    /// There are other things in it.
    #[error(
        "{0} has other things in it, and its rights would be changed: give Lockable a folder of \
         its own with --data-dir"
    )]
    NotOurs(String),
    /// The data directory is out of the reach of the user.
    #[error(
        "the user {user} cannot use the data directory {dir} ({error}): choose another place with \
         --data-dir"
    )]
    OutOfReach {
        /// The data directory.
        dir: String,
        /// The user.
        user: String,
        /// The system's error.
        error: io::Error,
    },
    /// PostgreSQL needs a name for the user.
    #[error(
        "the user id {0} has no entry in the passwd database, which PostgreSQL needs: add one, or \
         use DATABASE_URL"
    )]
    Nameless(u32),
    /// The system refused.
    #[error("cannot {what}: {error}")]
    System {
        /// The attempt.
        what: String,
        /// The system's error.
        error: io::Error,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> OwnerError {
    let what = what.into();
    move |error| OwnerError::System { what, error }
}

fn system_errno(what: impl Into<String>) -> impl FnOnce(nix::Error) -> OwnerError {
    let what = what.into();
    move |errno| OwnerError::System {
        what,
        error: errno.into(),
    }
}

/// The name of the user that this process runs as.
///
/// # Errors
/// The passwd database has no such user.
pub(super) fn current_user() -> Result<String, OwnerError> {
    let uid = geteuid();
    User::from_uid(uid)
        .ok()
        .flatten()
        .map(|user| user.name)
        .ok_or(OwnerError::Nameless(uid.as_raw()))
}

/// Makes sure that the data directory exists, is closed to others, and belongs to the user that
/// this process is or, started as root, becomes here for good. Returns the user's name.
///
/// # Errors
/// A sentence that says what to do about it.
pub fn settle_in(data_dir: &Path) -> Result<String, OwnerError> {
    if !is_ours_or_empty(data_dir) {
        return Err(OwnerError::NotOurs(data_dir.display().to_string()));
    }
    if !geteuid().is_root() {
        make_private_dir(data_dir).map_err(system(format!(
            "make the data directory {}",
            data_dir.display()
        )))?;
        return current_user();
    }
    let user = user_for(data_dir)?;
    make_private_dir(data_dir).map_err(system(format!(
        "make the data directory {}",
        data_dir.display()
    )))?;
    let meta =
        std::fs::metadata(data_dir).map_err(system(format!("read {}", data_dir.display())))?;
    if meta.uid() != user.uid.as_raw() {
        nix::unistd::chown(data_dir, Some(user.uid), Some(user.gid)).map_err(system_errno(
            format!("give {} to {}", data_dir.display(), user.name),
        ))?;
    }
    become_user(&user)?;
    // /root, for one, is closed to the user.
    std::fs::read_dir(data_dir).map_err(|error| OwnerError::OutOfReach {
        dir: data_dir.display().to_string(),
        user: user.name.clone(),
        error,
    })?;
    Ok(user.name)
}

/// True if the folder may be taken: new, empty, or with something of the service's in it.
/// `--data-dir /tmp` may not.
fn is_ours_or_empty(data_dir: &Path) -> bool {
    const OURS: [&str; 3] = ["lockable.lock", "postgres", "outbox"];
    !data_dir.exists()
        || OURS
            .iter()
            .any(|name| data_dir.join(name).symlink_metadata().is_ok())
        || is_empty(data_dir)
}

/// True if nothing is in the folder but what an operator prepares and what a volume of its own has.
fn is_empty(data_dir: &Path) -> bool {
    const ALLOWED: [&str; 2] = ["postgresql.conf", "lost+found"];
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name())
        .all(|name| ALLOWED.iter().any(|allowed| name == *allowed))
}

/// Whom root becomes for this data: its owner if that is somebody; for new data (or a fresh folder
/// of root's) the first candidate that exists.
fn user_for(data_dir: &Path) -> Result<User, OwnerError> {
    let Ok(meta) = std::fs::metadata(data_dir) else {
        return candidate();
    };
    if meta.uid() == 0 && is_empty(data_dir) {
        return candidate();
    }
    let owner = User::from_uid(meta.uid().into()).ok().flatten();
    match owner {
        Some(owner) if !owner.uid.is_root() && owner.name != "nobody" => Ok(owner),
        other => Err(OwnerError::WrongOwner {
            dir: data_dir.display().to_string(),
            word: shell::word(data_dir),
            owner: other.map_or_else(
                || format!("the unknown user id {}", meta.uid()),
                |owner| owner.name,
            ),
            to: candidate().map_or_else(|_| "lockable".to_owned(), |user| user.name),
        }),
    }
}

fn candidate() -> Result<User, OwnerError> {
    let known = |name: &&str| User::from_name(name).ok().flatten();
    CANDIDATES.iter().find_map(known).ok_or(OwnerError::NoUser)
}

/// Root's rights are gone after this, for every thread: the C library sets the ids of all of them.
fn become_user(user: &User) -> Result<(), OwnerError> {
    let what = || format!("become the user {}", user.name);
    #[cfg(not(target_vendor = "apple"))]
    {
        let name = std::ffi::CString::new(user.name.as_str()).expect("a user's name has no NUL");
        nix::unistd::initgroups(&name, user.gid).map_err(system_errno(what()))?;
    }
    nix::unistd::setgid(user.gid).map_err(system_errno(what()))?;
    nix::unistd::setuid(user.uid).map_err(system_errno(what()))?;
    if nix::unistd::setuid(nix::unistd::Uid::from_raw(0)).is_ok() {
        return Err(system(what())(io::Error::other(
            "root's rights could be taken back",
        )));
    }
    tracing::info!(user = user.name, "left root");
    Ok(())
}

/// Makes the folders above a directory. Root's are open to the user that root becomes, whatever the
/// umask is; anybody else's are as the umask says.
fn make_parents(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_parents(parent)?;
    }
    match std::fs::create_dir(dir) {
        Ok(()) if geteuid().is_root() => {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        outcome => outcome,
    }
}

/// Makes a directory with mode 0700; one that is there already keeps its mode unless others may
/// enter it.
///
/// # Errors
/// The system's.
pub(super) fn make_private_dir(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        make_parents(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = std::fs::metadata(dir)?.permissions().mode();
            if mode & 0o077 != 0 {
                std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
            }
            Ok(())
        }
        outcome => outcome,
    }
}

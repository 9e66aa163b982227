//! PostgreSQL's programs, the user that runs them, and the folders of clusters.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::kill;
use nix::unistd::{Pid, Uid, User};

const FOLDER_PREFIX: &str = "lkt-";

/// The path of one of PostgreSQL's programs: in `$PG_BIN`, in the newest of Debian's or Homebrew's
/// folders, or in `PATH`.
pub(crate) fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(find_programs).join(name)
}

fn find_programs() -> PathBuf {
    let mut candidates: Vec<PathBuf> = std::env::var_os("PG_BIN")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    for (parent, child) in [("/usr/lib/postgresql", "bin"), ("/opt/homebrew/opt", "bin")] {
        let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let version = name.trim_start_matches("postgresql@").parse().ok()?;
                Some((version, entry.path().join(child)))
            })
            .collect();
        found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        candidates.extend(found.into_iter().map(|(_, path)| path));
    }
    candidates.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    candidates
        .into_iter()
        .find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
        .expect("PostgreSQL's programs (initdb, postgres) are installed; script/bootstrap does it")
}

/// PostgreSQL refuses to run as root: then it runs as `postgres`, whom its package makes.
fn unprivileged() -> Option<&'static User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    USER.get_or_init(|| {
        let name = Uid::effective().is_root().then_some("postgres")?;
        Some(
            User::from_name(name)
                .unwrap()
                .expect("as root, the tests run PostgreSQL as the user postgres"),
        )
    })
    .as_ref()
}

pub(super) fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new(program);
    // Not the folder of the tests: as root it may be closed to the other user.
    command.current_dir("/").stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if let Some(user) = unprivileged() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// A short path (a socket's has at most 107 bytes) that names the process it belongs to.
pub(super) fn new_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = temporary_folder().join(format!("{FOLDER_PREFIX}{}-{number}", std::process::id()));
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir(&folder).expect("the temporary folder can be written");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    File::create(folder.join("log")).unwrap();
    if let Some(user) = unprivileged() {
        for path in [folder.clone(), folder.join("log")] {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
    }
    folder
}

fn temporary_folder() -> PathBuf {
    let folder = std::env::temp_dir();
    if unprivileged().is_some() || folder.as_os_str().len() > 60 {
        PathBuf::from("/tmp")
    } else {
        folder
    }
}

/// Folders of test processes that are gone and whose watchdog was killed as well.
pub(super) fn remove_leftovers() {
    for entry in std::fs::read_dir(temporary_folder())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            name.strip_prefix(FOLDER_PREFIX)?
                .split('-')
                .next()?
                .parse()
                .ok()
        });
        if let Some(owner) = owner
            && kill(Pid::from_raw(owner), None) == Err(nix::errno::Errno::ESRCH)
            && !entry.path().join("data/postmaster.pid").exists()
        {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

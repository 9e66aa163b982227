//! The inheritance of the programs that this process starts: their environment, descriptors and
//! limits.
//!
//! PostgreSQL and its tools run for years and run commands of their own (archiving, for one), so
//! they get only what is meant for them: no setting and no secret of the service, no file that its
//! caller had open, and the caller's limit of descriptors instead of the service's.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};

/// The soft limit of descriptors that this process was started with, once it has another.
static CALLERS_LIMIT: OnceLock<rlim_t> = OnceLock::new();

/// Raises the soft limit of descriptors to the hard one, and returns the limit in force. The
/// programs that are started later get the limit from before: some of them try to close every
/// descriptor up to it, or cannot count beyond 1024.
///
/// # Errors
/// The system's error, where the limit cannot be read.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft == hard || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        return Ok(soft);
    }
    // Fails if the limit was raised before: the first one is the caller's.
    let _ = CALLERS_LIMIT.set(soft);
    Ok(hard)
}

/// A command without the variables that are meant for this process.
pub(super) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = match CALLERS_LIMIT.get() {
        None => Command::new(program),
        Some(&limit) => {
            let limit = match limit {
                RLIM_INFINITY => "unlimited".to_owned(),
                limit => limit.to_string(),
            };
            let mut shell = Command::new("/bin/sh");
            // The shell becomes the program: same process id, same place in the tree.
            let script = "ulimit -S -n \"$1\"; shift; exec \"$@\"";
            shell.args(["-c", script, "lockable", &limit]).arg(program);
            shell
        }
    };
    for (name, _) in std::env::vars_os() {
        if is_ours(&name) {
            command.env_remove(name);
        }
    }
    command
}

/// True for the variables that configure this service, secrets among them, and for the socket on
/// which a service manager waits to hear from this process only.
fn is_ours(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"LOCKABLE_")
        || name == "DATABASE_URL"
        || name == "NOTIFY_SOCKET"
}

/// True for the variables of PostgreSQL's clients and servers (`PGHOST`, `PGDATA`, `PGOPTIONS`).
/// `PG_BIN` is ours.
pub(super) fn is_postgres_variable(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"PG") && name != "PG_BIN"
}

/// Starts this program anew without the caller's `PG*` variables; does nothing if there are none.
/// They are meant for another PostgreSQL than the embedded one, and our driver reads them wherever
/// it connects. A process can safely change its environment only by starting a program.
///
/// # Errors
/// The system's error, where this program cannot be started again.
pub fn leave_postgres_variables() -> io::Result<()> {
    let names = std::env::vars_os().map(|(name, _)| name);
    let foreign: Vec<_> = names.filter(|name| is_postgres_variable(name)).collect();
    if foreign.is_empty() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments);
    for name in foreign {
        again.env_remove(name);
    }
    Err(again.exec())
}

/// Closes the descriptors beyond standard error that this process was started with and its children
/// would inherit: a pipe or a lock of the caller's would stay open as long as PostgreSQL runs. Open
/// what was named by such a descriptor (`/dev/fd/5`) before. Linux only: other systems do not say
/// which descriptors are inherited.
pub(super) fn close_foreign_descriptors() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // Everything that this program opens is closed by itself when another program starts.
        if is_inherited(descriptor) {
            let _ = nix::unistd::close(descriptor);
        }
    }
}

/// True if a program that this process starts would get the descriptor.
fn is_inherited(descriptor: i32) -> bool {
    let info = Path::new("/proc/self/fdinfo").join(descriptor.to_string());
    let Ok(text) = std::fs::read_to_string(info) else {
        return false;
    };
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    flags
        .and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok())
        .is_some_and(|flags| flags & nix::libc::O_CLOEXEC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_variables_are_told_from_postgresqls_and_from_others() {
        let ours = ["LOCKABLE_SMTP_URL", "DATABASE_URL", "NOTIFY_SOCKET"];
        assert!(ours.iter().all(|name| is_ours(OsStr::new(name))));
        let theirs = ["PGOPTIONS", "PGHOST", "PGDATA"];
        assert!(
            theirs
                .iter()
                .all(|name| is_postgres_variable(OsStr::new(name)))
        );
        for name in ["PG_BIN", "PATH", "AWS_SECRET_ACCESS_KEY"] {
            assert!(!is_ours(OsStr::new(name)) && !is_postgres_variable(OsStr::new(name)));
        }
    }

    #[test]
    fn what_this_program_opens_is_not_inherited() {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/").unwrap();
        assert!(!is_inherited(file.as_raw_fd()));
        if cfg!(target_os = "linux") {
            let inherited = nix::unistd::dup(&file).unwrap();
            assert!(is_inherited(inherited.as_raw_fd()));
        }
    }
}

//! The first process of a container (process 1), which the kernel gives duties: it gets the signals
//! that are meant for the service, and every process whose parent has ended becomes its child and
//! stays in the table of processes until it is waited for.
//!
//! So as process 1 `lockable serve` starts itself once more and only passes signals on and waits:
//! the service itself waits for its own children only, and could not tell them from strangers.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The signals that are passed on: those that the service takes, and those that users may try.
const PASSED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// True in the first process of a container.
pub(crate) fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Runs this program with the same arguments as a child, and returns as it does. Call it before
/// there is a second thread.
pub(crate) fn run_as_first_process() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("lockable: cannot start the service: {error}\n").as_bytes(),
            );
            ExitCode::FAILURE
        }
    }
}

fn run() -> std::io::Result<u8> {
    let mut service = Command::new(std::env::current_exe()?);
    // A group of its own: Ctrl-C in a terminal reaches it once, by way of this process.
    service.args(std::env::args_os().skip(1)).process_group(0);
    let service = Pid::from_raw(service.spawn()?.id().cast_signed());
    // Blocked, signals wait until they are asked for. Not before, because a child inherits that.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    for signal in PASSED_ON {
        signals.add(signal);
    }
    signals.thread_block()?;
    // It may have ended before its signal was blocked.
    if let Some(code) = reap(service)? {
        return Ok(code);
    }
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(service)? {
                    return Ok(code);
                }
            }
            signal => {
                // Fails only if it has just ended.
                let _ = kill(service, signal);
            }
        }
    }
}

/// Waits for all children that have ended. Returns the exit code once the service is one of them,
/// in the way of shells: 128 and the signal's number if a signal ended it.
fn reap(service: Pid) -> nix::Result<Option<u8>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == service => {
                return Ok(Some(u8::try_from(code).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == service => {
                return Ok(Some(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

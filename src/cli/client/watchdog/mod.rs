//! The watchdog of `lockable run`: this program in a mode that no help mentions, between `run` and
//! the command.
//!
//! `run` keeps the lease, the watchdog keeps the job: it is the command's parent, and the subreaper
//! of all that descends from it, so that no process of the job leaves its sight by a session or a
//! process group of its own, or by its parent's end. It knows the lease's deadline, and ends the
//! job by then whatever becomes of `run`: if it is killed, stopped, or hangs.

mod daemon;
mod job;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::Args;
use nix::sys::prctl;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::clock;
use super::processes;
use super::protocol::{self, Order, Receiver, Report, Sender};
use crate::signals::catch_unless_ignored;
use daemon::Streams;
use job::{Job, Look};

/// `lockable watchdog`.
#[derive(Args, Debug)]
pub(in crate::cli) struct WatchdogArgs {
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs as the watchdog: waits for the order to start, and returns when nothing of the job runs.
pub(in crate::cli) async fn watchdog(args: WatchdogArgs) -> anyhow::Result<ExitCode> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let stdin = protocol::receive_file(&socket)
        .context("the watchdog is started by `lockable run` only")?;
    let _survived = survive_signals()?;
    let mut children = signal(SignalKind::child())?;
    prctl::set_child_subreaper(true)?;
    // Another name than `run`'s, so that `killall lockable` does not end both.
    prctl::set_name(c"lock-watchdog")?;
    processes::check_proc()?;
    let streams = Streams::of_job(&stdin)?;
    let (reports, mut orders) = protocol::channel(socket)?;
    reports.send(&Report::Ready);
    let Some(Order::Start {
        environment,
        deadlines,
        grace,
    }) = orders.next().await
    else {
        return Ok(ExitCode::SUCCESS);
    };
    match start(&args.command, environment, stdin) {
        Ok(pid) => {
            reports.send(&Report::Started { pid });
            let job = Job::new(pid, deadlines, grace, streams);
            watch(job, &reports, &mut orders, &mut children).await;
        }
        Err(error) => reports.send(&Report::NotStarted {
            is_missing: error.kind() == std::io::ErrorKind::NotFound,
            message: error.to_string(),
        }),
    }
    reports.send(&Report::Finished);
    Ok(ExitCode::SUCCESS)
}

/// Starts the command, in a process group of its own. Returns its process id.
fn start(
    command: &[OsString],
    environment: Vec<(String, String)>,
    stdin: OwnedFd,
) -> std::io::Result<i32> {
    let child = Command::new(&command[0])
        .args(&command[1..])
        .envs(environment)
        .process_group(0)
        .stdin(Stdio::from(stdin))
        .spawn()?;
    Ok(child.id().cast_signed())
}

async fn watch(mut job: Job, reports: &Sender, orders: &mut Receiver, children: &mut Signal) {
    let mut is_run_alive = true;
    loop {
        job.reap(reports);
        let Look::Again(at) = job.look(reports) else {
            return;
        };
        tokio::select! {
            order = orders.next(), if is_run_alive => match order {
                Some(Order::Renewed(deadlines)) => job.renew(deadlines),
                Some(Order::Signal(signal)) => job.forward(signal),
                Some(Order::End) => job.end(),
                Some(Order::Start { .. }) => {}
                None => {
                    is_run_alive = false;
                    job.end();
                }
            },
            _ = children.recv() => {}
            () = clock::sleep_until(at) => {}
        }
    }
}

/// Catches the signals that would end or stop this process: it ends when the job has. The command
/// gets them as they were, because a handler is not inherited.
fn survive_signals() -> std::io::Result<Vec<Signal>> {
    let kinds = [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
        SignalKind::alarm(),
        SignalKind::from_raw(nix::libc::SIGTSTP),
        SignalKind::from_raw(nix::libc::SIGTTIN),
        SignalKind::from_raw(nix::libc::SIGTTOU),
    ];
    let caught = kinds.into_iter().map(catch_unless_ignored);
    Ok(caught
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

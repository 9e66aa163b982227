//! `lockable watch`: the events of a lock, or of all locks of a namespace, as they happen.
//!
//! The stream is followed on a new connection behind the last event, on whichever node, if the
//! connection breaks or the node stops.

mod lines;

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use tokio::signal::unix::SignalKind;

use super::api::{RequestError, lock_name};
use super::backoff::Backoff;
use super::clock::{self, BootInstant};
use super::exit;
use super::failure::Failure;
use super::printing::{Printed, print};
use super::v2::{NamespaceApi, NamespaceArgs};
use crate::cli::{output, runtime};
use crate::locks::LockName;
use crate::signals::catch_unless_ignored;
use lines::Lines;

/// How long a service that has never answered is asked again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest that a service is left alone because it says so.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// `lockable watch`.
#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
pub(in crate::cli) struct WatchArgs {
    /// Name of the lock [default: all locks of the namespace]
    name: Option<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Begin behind this event: the `id` that an earlier watch has printed [default: begin now]
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// Print JSON, one event a line, as the service sends it
    #[arg(long)]
    json: bool,
}

const EXPLANATION: &str = "\
Prints a line for each grant, release, expiry and break in a private namespace (LOCKABLE_NAMESPACE \
or --namespace), and, of one lock, for each change of its holders and its line. Times are in UTC. \
A `gap` says that the service has lost events. Events are a record for people: no program should \
decide by them who holds a lock.

It goes on until it is interrupted. If the connection breaks, it says so on standard error and \
goes on behind the last event.

Exit codes:
    0  the reader of its output has gone
    2  called wrongly: an option, the URL, a name that no lock can have
   69  the service could not be reached at the start
   71  this machine refused what is needed, such as a descriptor
   74  an event could not be written
   77  refused by the service: a bad token, or a namespace that it does not see or watch
  101  an error in this program
  130  interrupted (Ctrl-C)
  143  ended (SIGTERM)";

/// Follows events.
pub(in crate::cli) async fn watch(args: WatchArgs) -> anyhow::Result<ExitCode> {
    end_on_signals()?;
    Ok(Failure::end(follow(&args).await))
}

async fn follow(args: &WatchArgs) -> Result<u8, Failure> {
    let mut watch = Watch {
        name: args.name.as_deref().map(lock_name).transpose()?,
        api: NamespaceApi::new(&args.namespace)?,
        lines: Lines::new(args.json),
        last_id: args.after.map(|id| id.to_string()),
        retry: Duration::ZERO,
        backoff: Backoff::default(),
        give_up_at: Some(BootInstant::now() + PATIENCE),
        is_away: false,
    };
    loop {
        match watch.follow_stream().await {
            Ok(()) => return Ok(exit::TRUE),
            Err(Failure::Request(RequestError::Unavailable {
                sentence,
                retry_after,
                has_waited,
            })) => {
                if watch.give_up_at.is_some_and(BootInstant::has_passed) {
                    let error = RequestError::Unavailable {
                        sentence,
                        retry_after,
                        has_waited,
                    };
                    return Err(error.into());
                }
                watch.say_once(&sentence);
                let asked_for = retry_after.unwrap_or_default().max(watch.retry);
                clock::sleep(watch.backoff.next().max(asked_for.min(LONGEST_PAUSE))).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// What is watched, and how far.
struct Watch {
    api: NamespaceApi,
    name: Option<LockName>,
    lines: Lines,
    /// The next stream goes on behind this event; `None` before the first one.
    last_id: Option<String>,
    /// How long the service asks to be left alone before a new stream.
    retry: Duration,
    backoff: Backoff,
    /// `None` once the service has answered.
    give_up_at: Option<BootInstant>,
    /// True while an outage has been said.
    is_away: bool,
}

impl Watch {
    /// Prints the events of one stream. Ends well only if nobody reads them any more.
    async fn follow_stream(&mut self) -> Result<(), Failure> {
        let mut stream = self
            .api
            .events(self.name.as_ref(), self.last_id.as_deref())
            .await?;
        self.say_connected();
        loop {
            let message = stream.next().await;
            if let Some(id) = stream.last_id() {
                self.last_id = Some(id.to_owned());
            }
            self.retry = stream.retry();
            let lines = self.lines.of(&message?);
            // Not at the connection: a service that closes each one is not asked without a pause.
            self.backoff = Backoff::default();
            if print(&lines)? == Printed::ReaderIsGone {
                return Ok(());
            }
        }
    }

    fn say_once(&mut self, sentence: &str) {
        if !std::mem::replace(&mut self.is_away, true) {
            output::error(format_args!("{sentence}; connecting again"));
        }
    }

    fn say_connected(&mut self) {
        let was_reached = self.give_up_at.take().is_none();
        if !std::mem::take(&mut self.is_away) {
            return;
        }
        if was_reached && self.last_id.is_none() {
            output::error("connected again; what happened meanwhile is not shown");
        } else {
            output::error("connected again");
        }
    }
}

/// Ends the process with 128 + N at the signals that ask for it, whatever it is doing: process 1 of
/// a container would ignore them, and a write to a reader that does not read would keep it.
///
/// # Errors
/// If the system refuses a thread or a handler.
fn end_on_signals() -> io::Result<()> {
    let (sender, caught) = sync_channel(1);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let outcome = runtime::block_on(async {
                let mut interrupt = catch_unless_ignored(SignalKind::interrupt())?;
                let mut terminate = catch_unless_ignored(SignalKind::terminate())?;
                let _ = sender.send(Ok(()));
                let signal = tokio::select! {
                    Some(()) = next(&mut interrupt) => Signal::SIGINT,
                    Some(()) = next(&mut terminate) => Signal::SIGTERM,
                    // Both are ignored.
                    else => return Ok(()),
                };
                std::process::exit(128 + signal as i32)
            });
            if let Err(error) = outcome.flatten() {
                let _ = sender.send(Err(error));
            }
        })?;
    caught.recv().unwrap_or(Ok(()))
}

/// The next signal; `None` if there will be none.
async fn next(signals: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    signals.as_mut()?.recv().await
}

//! `lockable list`: the held locks of a namespace.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::api::RequestError;
use super::backoff::Backoff;
use super::clock::{self, BootInstant};
use super::description::{NONE, holder, mode, number, time_left};
use super::display::{Column, Table, visible, visible_json};
use super::exit;
use super::failure::Failure;
use super::printing::{Printed, print, terminal_width};
use super::v2::{Answer, Lock, NamespaceApi, NamespaceArgs, Page};
use crate::cli::output;

/// How long a page is asked for again that the service has no time for now.
const PATIENCE: Duration = Duration::from_secs(30);

const COLUMNS: &[Column] = &[
    Column::flexible("NAME"),
    Column::flexible("HOLDER"),
    Column::whole("MODE"),
    Column::whole("FENCING TOKEN"),
    Column::whole("REMAINING"),
    Column::whole("WAITING"),
];

/// `lockable list`.
#[derive(Args, Debug)]
#[command(after_help = EXPLANATION)]
pub(in crate::cli) struct ListArgs {
    /// Only locks whose names begin with this
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    #[command(flatten)]
    namespace: NamespaceArgs,
    /// Print JSON, one lock a line, as the service describes it
    #[arg(long)]
    json: bool,
}

const EXPLANATION: &str = "\
Lists the held locks of a private namespace (LOCKABLE_NAMESPACE or --namespace): the service does \
not list the public one, which all accounts share. Of a lock with several leases, the remaining \
time is that of the lease that ends last.

Exit codes:
    0  all of them are listed, be it none
    2  called wrongly: an option, the URL
   69  no answer; what is printed is not all
   71  this machine refused what the request needs, such as a descriptor
   74  the answer could not be written
   77  refused by the service: a bad token, or a namespace that it does not see or list
  101  an error in this program";

/// Lists locks.
pub(in crate::cli) async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let outcome = if args.json {
        print_objects(&args).await
    } else {
        print_table(&args).await
    };
    Ok(Failure::end(outcome))
}

/// Prints each page as it comes.
async fn print_objects(args: &ListArgs) -> Result<u8, Failure> {
    let mut pages = Pages::new(args)?;
    while let Some(page) = pages.next().await? {
        let lines: Vec<_> = page.iter().map(|lock| visible_json(&lock.json)).collect();
        if print(&lines)? == Printed::ReaderIsGone {
            break;
        }
    }
    Ok(exit::TRUE)
}

/// Prints all pages at the end, because they make one table.
async fn print_table(args: &ListArgs) -> Result<u8, Failure> {
    let mut pages = Pages::new(args)?;
    let mut table = Table::new(COLUMNS);
    let outcome = loop {
        match pages.next().await {
            Ok(Some(page)) => page.iter().for_each(|lock| table.push(row(&lock.value))),
            Ok(None) => break Ok(exit::TRUE),
            Err(error) => break Err(error.into()),
        }
    };
    if !table.is_empty() {
        print(&table.lines(terminal_width()))?;
    } else if outcome.is_ok() {
        output::notice(no_locks(args, &pages.api));
    }
    outcome
}

/// The pages of the list, one after the other.
struct Pages<'a> {
    api: NamespaceApi,
    prefix: Option<&'a str>,
    /// Names the next page; `None` for the first.
    cursor: Option<String>,
    is_over: bool,
}

impl<'a> Pages<'a> {
    fn new(args: &'a ListArgs) -> Result<Self, RequestError> {
        Ok(Self {
            api: NamespaceApi::new(&args.namespace)?,
            prefix: args.prefix.as_deref(),
            cursor: None,
            is_over: false,
        })
    }

    /// The next page, `None` behind the last one.
    async fn next(&mut self) -> Result<Option<Vec<Answer<Lock>>>, RequestError> {
        if self.is_over {
            return Ok(None);
        }
        let page = fetch(&self.api, self.prefix, self.cursor.as_deref()).await?;
        // A service that named the same page again would be asked without end.
        self.is_over = page.next_cursor.is_none() || page.next_cursor == self.cursor;
        self.cursor = page.next_cursor;
        Ok(Some(page.locks))
    }
}

/// A page. The service limits requests a second, and a long list has many pages.
async fn fetch(
    api: &NamespaceApi,
    prefix: Option<&str>,
    cursor: Option<&str>,
) -> Result<Page, RequestError> {
    let give_up_at = BootInstant::now() + PATIENCE;
    let mut backoff = Backoff::default();
    loop {
        let error = match api.locks(prefix, cursor).await {
            Ok(page) => return Ok(page),
            Err(error) => error,
        };
        let pause = match &error {
            RequestError::Unavailable {
                retry_after: Some(pause),
                ..
            } => backoff.next().max(*pause),
            _ => return Err(error),
        };
        if pause >= give_up_at.remaining() {
            return Err(error);
        }
        clock::sleep(pause).await;
    }
}

fn row(lock: &Lock) -> Vec<String> {
    let leases = lock.leases();
    let last = leases.iter().max_by_key(|lease| lease.expires_in_ms);
    vec![
        visible(lock.name.as_deref().unwrap_or(NONE)).into_owned(),
        match leases {
            [lease] => holder(lease),
            [] => NONE.to_owned(),
            _ => format!("{} leases", leases.len()),
        },
        mode(lock).unwrap_or_else(|| NONE.to_owned()),
        match leases {
            [lease] => number(lease.fencing_token),
            _ => NONE.to_owned(),
        },
        last.map_or_else(|| NONE.to_owned(), time_left),
        number(lock.queue_length),
    ]
}

fn no_locks(args: &ListArgs, api: &NamespaceApi) -> String {
    let namespace = api.namespace();
    match args.prefix.as_deref() {
        Some(prefix) if !prefix.is_empty() => format!(
            "no lock whose name begins with \"{}\" is held in the namespace {namespace:?}",
            visible(prefix)
        ),
        _ => format!("no lock is held in the namespace {namespace:?}"),
    }
}

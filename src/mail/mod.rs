//! Mail to account owners: queued by a request, sent in the background, written to a folder where
//! no mail server is set up.
//!
//! A letter holds the secret of its link, so its text is in no log and its file is readable by this
//! user only.

mod outbox;
mod queue;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, Tokio1Executor};
use url::Url;

use crate::config::SecretUrl;

/// How mail leaves this node.
#[derive(Debug, Clone)]
pub struct MailSettings {
    /// `smtp://` or `smtps://`; `None`: everything goes to the outbox.
    pub smtp_url: Option<SecretUrl>,
    /// The sender; `None`: `lockable@` and the host of the public URL.
    pub from: Option<String>,
    /// Where letters are written without a mail server, and those that it did not take before a
    /// stop.
    pub outbox: PathBuf,
    /// What browsers call this service: its host names the sender.
    pub public_url: Url,
}

/// Why the mailer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MailSetupError {
    /// Not an address.
    #[error("the sender of mail, {address:?}, is not an e-mail address: set LOCKABLE_MAIL_FROM")]
    Sender {
        /// What was tried.
        address: String,
    },
    /// Not something that the SMTP client understands. The source holds no password.
    #[error("LOCKABLE_SMTP_URL cannot be used")]
    SmtpUrl(#[source] lettre::transport::smtp::Error),
}

/// A message as its writer sees it. `Debug` leaves the text out: it holds the link.
#[derive(Clone)]
pub struct Letter {
    /// The address that it goes to.
    pub to: String,
    /// One line, plain ASCII.
    pub subject: String,
    /// The text.
    pub body: String,
}

impl std::fmt::Debug for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Letter")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// The queue stands still: no more is taken.
#[derive(Debug, thiserror::Error)]
#[error("the mail queue is full")]
pub struct QueueFull;

/// Where letters are handed in. Cloning shares the one queue.
#[derive(Clone)]
pub struct Mailer {
    queue: tokio::sync::mpsc::Sender<queue::Command>,
    by_smtp: bool,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer")
            .field("by_smtp", &self.by_smtp)
            .finish_non_exhaustive()
    }
}

impl Mailer {
    /// Starts the task that sends. Needs a running tokio.
    ///
    /// # Errors
    /// Where the settings make no sender or no mail server.
    pub fn start(settings: &MailSettings) -> Result<Self, MailSetupError> {
        let host = settings
            .public_url
            .host_str()
            .unwrap_or("localhost")
            .to_owned();
        let sender = settings.from.clone().unwrap_or_else(|| {
            // An address in place of a name needs brackets; a domain does not.
            match settings.public_url.host() {
                Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) | None => {
                    "lockable@localhost".to_owned()
                }
                Some(url::Host::Domain(name)) => format!("lockable@{name}"),
            }
        });
        let mut from: Mailbox = sender
            .parse()
            .map_err(|_| MailSetupError::Sender { address: sender })?;
        from.name.get_or_insert_with(|| "Lockable".to_owned());
        let smtp = match &settings.smtp_url {
            None => None,
            Some(url) => Some(
                AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose())
                    .map_err(MailSetupError::SmtpUrl)?
                    .timeout(Some(Duration::from_secs(20)))
                    .build(),
            ),
        };
        let by_smtp = smtp.is_some();
        let office = queue::Office {
            smtp,
            from,
            host,
            outbox: outbox::Outbox::new(settings.outbox.clone()),
        };
        Ok(Self {
            queue: queue::start(Arc::new(office)),
            by_smtp,
        })
    }

    /// Whether a mail server is set up: then an address can be proved, and API tokens need a
    /// verified one.
    pub fn is_by_smtp(&self) -> bool {
        self.by_smtp
    }

    /// Hands a letter in; never waits.
    ///
    /// # Errors
    /// When the queue is full, which takes a mail server that has been away for long.
    pub fn send(&self, letter: Letter) -> Result<(), QueueFull> {
        self.queue
            .try_send(queue::Command::Deliver(letter))
            .map_err(|_| QueueFull)
    }

    /// Ends the sending: each waiting letter gets one more try, and what the server does not take
    /// within `at_most` is written to the outbox. For the stop of the service, after the last
    /// request was answered.
    pub async fn flush(&self, at_most: Duration) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self
            .queue
            .send(queue::Command::Flush { at_most, done })
            .await
            .is_ok()
        {
            // An error means that the task is gone with its runtime: nothing is left to wait for.
            let _ = wait.await;
        }
    }
}

//! Mail to account owners: queued by a request, sent in the background; written to a folder if no
//! mail server is set up.
//!
//! A letter holds the secret of its link, so its text is in no log and only this user can read its
//! file.

mod letter;
mod outbox;
mod queue;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::{AsyncSmtpTransport, Tokio1Executor};
use url::Url;

use crate::config::SecretUrl;

pub use letter::Letter;

/// The settings of mail.
#[derive(Debug, Clone)]
pub struct MailSettings {
    /// `smtp://` or `smtps://`; `None` if all letters are written to the outbox.
    pub smtp_url: Option<SecretUrl>,
    /// The sender; `None` for `lockable@` and the host of the public URL.
    pub from: Option<String>,
    /// The folder for letters if there is no mail server, and for those that it did not take before
    /// a stop.
    pub outbox: PathBuf,
    /// The URL of this service, whose host is part of the default sender and of message ids.
    pub public_url: Url,
}

/// Why the mailer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MailSetupError {
    /// The sender is no e-mail address.
    #[error("the sender of mail, {email:?}, is not an e-mail address: set LOCKABLE_MAIL_FROM")]
    Sender {
        /// The setting, or the default.
        email: String,
    },
    /// The SMTP client does not understand the URL. The source holds no password.
    #[error("LOCKABLE_SMTP_URL cannot be used")]
    SmtpUrl(#[source] lettre::transport::smtp::Error),
}

/// The queue is full: the mail server has been unreachable for long.
#[derive(Debug, thiserror::Error)]
#[error("the mail queue is full")]
pub struct QueueFull;

/// Takes letters. Cloning shares the one queue.
#[derive(Clone)]
pub struct Mailer {
    queue: tokio::sync::mpsc::Sender<queue::Command>,
    has_smtp: bool,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailer")
            .field("has_smtp", &self.has_smtp)
            .finish_non_exhaustive()
    }
}

impl Mailer {
    /// Starts the task that sends. Needs a running tokio.
    ///
    /// # Errors
    /// If the sender or the URL of the mail server is invalid.
    pub fn start(settings: &MailSettings) -> Result<Self, MailSetupError> {
        let host = settings
            .public_url
            .host_str()
            .unwrap_or("localhost")
            .to_owned();
        let sender = settings.from.clone().unwrap_or_else(|| {
            // An IP as the domain of an e-mail address needs brackets.
            match settings.public_url.host() {
                Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) | None => {
                    "lockable@localhost".to_owned()
                }
                Some(url::Host::Domain(name)) => format!("lockable@{name}"),
            }
        });
        let mut from: Mailbox = sender
            .parse()
            .map_err(|_| MailSetupError::Sender { email: sender })?;
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
        let has_smtp = smtp.is_some();
        let delivery = queue::Delivery {
            smtp,
            from,
            host,
            outbox: outbox::Outbox::new(settings.outbox.clone()),
        };
        Ok(Self {
            queue: queue::start(Arc::new(delivery)),
            has_smtp,
        })
    }

    /// True if a mail server is set up: then an e-mail address can be confirmed, and API tokens
    /// need a confirmed one.
    pub fn is_by_smtp(&self) -> bool {
        self.has_smtp
    }

    /// Queues a letter, without waiting.
    ///
    /// # Errors
    /// If the queue is full.
    pub fn send(&self, letter: Letter) -> Result<(), QueueFull> {
        self.queue
            .try_send(queue::Command::Deliver(letter))
            .map_err(|_| QueueFull)
    }

    /// Ends the sending: tries each waiting letter once more, for `at_most`, and writes the others
    /// to the outbox. For the stop of the service, after the last request was answered.
    pub async fn flush(&self, at_most: Duration) {
        let (done, wait) = tokio::sync::oneshot::channel();
        if self
            .queue
            .send(queue::Command::Flush { at_most, done })
            .await
            .is_ok()
        {
            // An error means that the task has ended with its runtime: there is nothing to wait
            // for.
            let _ = wait.await;
        }
    }
}

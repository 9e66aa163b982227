//! The task behind the queue: sends letters, retries, and empties the queue at a stop.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Mailbox};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::letter::Letter;
use super::outbox::Outbox;

/// The most letters that wait in the queue.
const QUEUE: usize = 1024;
/// The most letters in flight, those that wait for a retry included.
const MAX_IN_FLIGHT: usize = 64;
/// The waits before each retry, seconds. A link works for an hour, so a later one is of no use.
const RETRY_AFTER_S: [u64; 5] = [1, 5, 30, 120, 600];

pub(super) enum Command {
    Deliver(Letter),
    Flush {
        at_most: Duration,
        done: oneshot::Sender<()>,
    },
}

pub(super) struct Delivery {
    pub(super) smtp: Option<AsyncSmtpTransport<Tokio1Executor>>,
    pub(super) from: Mailbox,
    pub(super) host: String,
    pub(super) outbox: Outbox,
}

pub(super) fn start(delivery: Arc<Delivery>) -> mpsc::Sender<Command> {
    let (sender, mut commands) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut in_flight = JoinSet::new();
        let hurry = CancellationToken::new();
        loop {
            tokio::select! {
                Some(_) = in_flight.join_next() => {}
                command = commands.recv(), if in_flight.len() < MAX_IN_FLIGHT => match command {
                    None => break,
                    Some(Command::Deliver(letter)) => {
                        in_flight.spawn(deliver(Arc::clone(&delivery), letter, hurry.clone()));
                    }
                    Some(Command::Flush { at_most, done }) => {
                        hurry.cancel();
                        let all = async { while in_flight.join_next().await.is_some() {} };
                        if tokio::time::timeout(at_most, all).await.is_err() {
                            let letters = in_flight.len();
                            tracing::error!(letters, "stopped with mail on its way");
                        }
                        // An error means that nobody waits for the flush any more.
                        let _ = done.send(());
                    }
                },
            }
        }
        // The last mailer was dropped: the letters in flight still get their last try.
        hurry.cancel();
        while in_flight.join_next().await.is_some() {}
    });
    sender
}

/// Sends one letter, with retries while they can help. Once `hurry` is cancelled, because the
/// service stops, it tries a last time and then writes the letter to the outbox.
async fn deliver(delivery: Arc<Delivery>, letter: Letter, hurry: CancellationToken) {
    let message = match compose(&delivery, &letter) {
        Ok(message) => message,
        Err(error) => {
            // The form accepted the e-mail address and the mail library does not: nothing can be
            // sent to it.
            tracing::error!(subject = letter.subject, %error, "mail cannot be written");
            return;
        }
    };
    let Some(smtp) = &delivery.smtp else {
        return write_to_outbox(&delivery, &letter, &message).await;
    };
    let mut waits = RETRY_AFTER_S.iter();
    loop {
        let last_try = hurry.is_cancelled();
        // A stop has no time for the mail server's own time-out.
        let sent = if last_try {
            tokio::time::timeout(Duration::from_secs(3), smtp.send(message.clone()))
                .await
                .ok()
        } else {
            Some(smtp.send(message.clone()).await)
        };
        match sent {
            Some(Ok(_)) => {
                tracing::info!(subject = letter.subject, "mail sent");
                return;
            }
            Some(Err(error)) => {
                tracing::warn!(
                    subject = letter.subject,
                    error = &error as &dyn std::error::Error,
                    "mail not sent"
                );
                if error.is_permanent() {
                    return;
                }
            }
            None => tracing::warn!(
                subject = letter.subject,
                "mail not sent: the mail server did not answer in time"
            ),
        }
        let Some(seconds) = waits.next().filter(|_| !last_try) else {
            return write_to_outbox(&delivery, &letter, &message).await;
        };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(*seconds)) => {}
            () = hurry.cancelled() => {}
        }
    }
}

async fn write_to_outbox(delivery: &Delivery, letter: &Letter, message: &Message) {
    match delivery.outbox.write(&message.formatted()).await {
        Ok(file) => {
            tracing::info!(
                subject = letter.subject,
                file = %file.display(),
                "mail written to the outbox"
            );
        }
        Err(error) => {
            tracing::error!(
                subject = letter.subject, %error,
                "mail could not be written to the outbox"
            );
        }
    }
}

fn compose(
    delivery: &Delivery,
    letter: &Letter,
) -> Result<Message, Box<dyn std::error::Error + Send + Sync>> {
    let message = Message::builder()
        .from(delivery.from.clone())
        .to(Mailbox::new(None, letter.to.parse()?))
        .subject(letter.subject.clone())
        .message_id(Some(format!(
            "<{}@{}>",
            uuid::Uuid::new_v4(),
            delivery.host
        )))
        .header(ContentType::TEXT_PLAIN)
        .body(encode(&letter.body))?;
    Ok(message)
}

/// Encodes the text. ASCII stays as it is, also in lines longer than a screen: the library would
/// fold them at 76 characters, and a link in a file of the outbox must be whole.
fn encode(text: &str) -> Body {
    const LONGEST_LINE: usize = 998;
    if text.is_ascii() && text.lines().all(|line| line.len() <= LONGEST_LINE) {
        let lines: String = text.lines().flat_map(|line| [line, "\r\n"]).collect();
        Body::dangerous_pre_encoded(lines.into_bytes(), ContentTransferEncoding::SevenBit)
    } else {
        Body::new(text.to_owned())
    }
}

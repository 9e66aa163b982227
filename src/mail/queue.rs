//! The task behind the queue: sends, tries again, and leaves nothing behind at a stop.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Mailbox};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Letter;
use super::outbox::Outbox;

/// Letters that wait to be taken up. Beyond that a request is told so.
const QUEUE: usize = 1024;
/// Letters on their way at once, those that wait for another try included.
const ON_THEIR_WAY: usize = 64;
/// The waits before each further try. A link works for an hour, so later is of no use.
const RETRY_AFTER_S: [u64; 5] = [1, 5, 30, 120, 600];

pub(super) enum Command {
    Deliver(Letter),
    Flush {
        at_most: Duration,
        done: oneshot::Sender<()>,
    },
}

pub(super) struct Office {
    pub(super) smtp: Option<AsyncSmtpTransport<Tokio1Executor>>,
    pub(super) from: Mailbox,
    pub(super) host: String,
    pub(super) outbox: Outbox,
}

pub(super) fn start(office: Arc<Office>) -> mpsc::Sender<Command> {
    let (sender, mut commands) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let mut on_their_way = JoinSet::new();
        let hurry = CancellationToken::new();
        loop {
            tokio::select! {
                Some(_) = on_their_way.join_next() => {}
                command = commands.recv(), if on_their_way.len() < ON_THEIR_WAY => match command {
                    None => break,
                    Some(Command::Deliver(letter)) => {
                        on_their_way.spawn(deliver(Arc::clone(&office), letter, hurry.clone()));
                    }
                    Some(Command::Flush { at_most, done }) => {
                        hurry.cancel();
                        let all = async { while on_their_way.join_next().await.is_some() {} };
                        if tokio::time::timeout(at_most, all).await.is_err() {
                            tracing::error!(letters = on_their_way.len(), "stopped with mail on its way");
                        }
                        // Whoever asked may have gone.
                        let _ = done.send(());
                    }
                },
            }
        }
        // The last handle is gone: what is on its way still gets its last try.
        hurry.cancel();
        while on_their_way.join_next().await.is_some() {}
    });
    sender
}

/// Sends one letter, trying again while that can help. `hurry`: the service stops, so one last try
/// and then the outbox.
async fn deliver(office: Arc<Office>, letter: Letter, hurry: CancellationToken) {
    let message = match compose(&office, &letter) {
        Ok(message) => message,
        Err(error) => {
            // The address passed the form's check and still is none for the mail library: nothing
            // can be sent to it.
            tracing::error!(subject = letter.subject, %error, "mail cannot be written");
            return;
        }
    };
    let Some(smtp) = &office.smtp else {
        return keep(&office, &letter, &message).await;
    };
    let mut waits = RETRY_AFTER_S.iter();
    loop {
        let last_try = hurry.is_cancelled();
        // Past the deadline of a stop there is no time for the server's own time-out.
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
            return keep(&office, &letter, &message).await;
        };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(*seconds)) => {}
            () = hurry.cancelled() => {}
        }
    }
}

async fn keep(office: &Office, letter: &Letter, message: &Message) {
    match office.outbox.write(&message.formatted()).await {
        Ok(file) => {
            tracing::info!(subject = letter.subject, file = %file.display(), "mail written to the outbox");
        }
        Err(error) => {
            tracing::error!(subject = letter.subject, %error, "mail could not be written to the outbox");
        }
    }
}

fn compose(
    office: &Office,
    letter: &Letter,
) -> Result<Message, Box<dyn std::error::Error + Send + Sync>> {
    let message = Message::builder()
        .from(office.from.clone())
        .to(Mailbox::new(None, letter.to.parse()?))
        .subject(letter.subject.clone())
        .message_id(Some(format!("<{}@{}>", uuid::Uuid::new_v4(), office.host)))
        .header(ContentType::TEXT_PLAIN)
        .body(encode(&letter.body))?;
    Ok(message)
}

/// Plain text stays as it is, also in lines longer than a screen: the library would fold them at 76
/// characters, and a link out of a file in the outbox must be whole.
fn encode(text: &str) -> Body {
    const LONGEST_LINE: usize = 998;
    if text.is_ascii() && text.lines().all(|line| line.len() <= LONGEST_LINE) {
        let lines: String = text.lines().flat_map(|line| [line, "\r\n"]).collect();
        Body::dangerous_pre_encoded(lines.into_bytes(), ContentTransferEncoding::SevenBit)
    } else {
        Body::new(text.to_owned())
    }
}

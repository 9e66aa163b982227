//! A mail server for tests: speaks enough of SMTP to be sent to, remembers what came, and refuses when told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What came in one transaction.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    /// Header and body as they were sent.
    pub(super) text: String,
    /// User name and password, where the client has given them.
    pub(super) login: Option<(String, String)>,
}

/// How the server answers a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Takes,
    /// Try again later.
    Busy,
    /// Never.
    Refuses,
}

#[derive(Debug)]
pub(super) struct MailServer {
    pub(super) address: SocketAddr,
    shared: Arc<Mutex<(Mood, Vec<Received>, u32)>>,
    task: JoinHandle<()>,
}

impl MailServer {
    pub(super) async fn start() -> MailServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new((Mood::Takes, Vec::new(), 0)));
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    let shared = shared.clone();
                    // A client that goes away in the middle ends its session and nothing else.
                    tokio::spawn(async move { converse(socket, &shared).await.ok() });
                }
            }
        });
        MailServer { address, shared, task }
    }

    pub(super) fn url(&self, login: &str, query: &str) -> lockable::config::SecretUrl {
        format!("smtp://{login}{}{query}", self.address).parse().unwrap()
    }

    pub(super) fn set(&self, mood: Mood) {
        self.shared.lock().unwrap().0 = mood;
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.shared.lock().unwrap().1.clone()
    }

    /// How many messages it was offered, taken or not.
    pub(super) fn offered(&self) -> u32 {
        self.shared.lock().unwrap().2
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn converse(socket: TcpStream, shared: &Mutex<(Mood, Vec<Received>, u32)>) -> std::io::Result<()> {
    let (reader, mut writer) = socket.into_split();
    let mut lines = BufReader::new(reader).lines();
    writer.write_all(b"220 test ESMTP\r\n").await?;
    let (mut from, mut to, mut login) = (String::new(), Vec::new(), None);
    while let Some(line) = lines.next_line().await? {
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let address =
            || rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address.to_owned());
        let answer = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN\r\n",
            "AUTH" => {
                let decoded = STANDARD.decode(rest.strip_prefix("PLAIN ").unwrap_or_default()).unwrap_or_default();
                let mut parts =
                    decoded.split(|byte| *byte == 0).skip(1).map(|part| String::from_utf8_lossy(part).into_owned());
                login = parts.next().zip(parts.next());
                "235 welcome\r\n"
            }
            "MAIL" => {
                from = address().unwrap_or_default();
                to.clear();
                "250 ok\r\n"
            }
            "RCPT" => {
                to.extend(address());
                "250 ok\r\n"
            }
            "DATA" => {
                writer.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    text.push_str("\r\n");
                }
                let mut shared = shared.lock().unwrap();
                shared.2 += 1;
                match shared.0 {
                    Mood::Takes => {
                        shared.1.push(Received { from: from.clone(), to: to.clone(), text, login: login.clone() });
                        "250 taken\r\n"
                    }
                    Mood::Busy => "451 later\r\n",
                    Mood::Refuses => "554 never\r\n",
                }
            }
            "RSET" | "NOOP" => "250 ok\r\n",
            "QUIT" => {
                writer.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 what?\r\n",
        };
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

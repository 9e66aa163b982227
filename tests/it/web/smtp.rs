//! A mail server for tests. It speaks enough SMTP to receive letters, keeps them, and refuses them
//! in a bad mood.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A letter, as it came in one transaction.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) from: String,
    pub(super) to: Vec<String>,
    /// Header and body as they were sent.
    pub(super) text: String,
    /// User name and password, if the client sent them.
    pub(super) login: Option<(String, String)>,
}

/// The reply of the server to a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Takes,
    /// Refuses for now.
    Busy,
    /// Refuses for good.
    Refuses,
}

/// The mood, the letters taken, and the number of letters offered.
type Shared = (Mood, Vec<Received>, u32);

#[derive(Debug)]
pub(super) struct MailServer {
    pub(super) socket_address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

/// The way in which the server speaks TLS.
#[derive(Clone)]
pub(super) enum Tls {
    None,
    /// After STARTTLS, without which it takes nothing.
    OnDemand(TlsAcceptor),
    /// From the first byte (`smtps://`).
    AtOnce(TlsAcceptor),
}

/// A certificate for `localhost`, as PEM, and the acceptor that uses it.
pub(super) fn certificate() -> (String, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (made.cert.pem(), TlsAcceptor::from(Arc::new(config)))
}

impl MailServer {
    pub(super) async fn start() -> MailServer {
        MailServer::start_with(Tls::None).await
    }

    pub(super) async fn start_with(tls: Tls) -> MailServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket_address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new((Mood::Takes, Vec::new(), 0)));
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                while let Ok((socket, _)) = listener.accept().await {
                    // A client that goes away in the middle ends its session and nothing else.
                    tokio::spawn(session(socket, tls.clone(), shared.clone()));
                }
            }
        });
        MailServer {
            socket_address,
            shared,
            task,
        }
    }

    pub(super) fn url(&self, login: &str, query: &str) -> lockable::config::SecretUrl {
        format!("smtp://{login}{}{query}", self.socket_address)
            .parse()
            .unwrap()
    }

    pub(super) fn set(&self, mood: Mood) {
        self.shared.lock().unwrap().0 = mood;
    }

    pub(super) fn received(&self) -> Vec<Received> {
        self.shared.lock().unwrap().1.clone()
    }

    /// The number of letters that it was offered, taken or not.
    pub(super) fn offered(&self) -> u32 {
        self.shared.lock().unwrap().2
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn session(socket: TcpStream, tls: Tls, shared: Arc<Mutex<Shared>>) -> std::io::Result<()> {
    match tls {
        Tls::None => {
            converse(BufReader::new(socket), true, false, &shared).await?;
        }
        Tls::AtOnce(acceptor) => {
            converse(
                BufReader::new(acceptor.accept(socket).await?),
                true,
                false,
                &shared,
            )
            .await?;
        }
        Tls::OnDemand(acceptor) => {
            if let Some(socket) = converse(BufReader::new(socket), true, true, &shared).await? {
                converse(
                    BufReader::new(acceptor.accept(socket).await?),
                    false,
                    false,
                    &shared,
                )
                .await?;
            }
        }
    }
    Ok(())
}

async fn next_line(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await?;
    Ok((read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Talks until the client has gone or wants TLS; then the connection is returned.
async fn converse<S>(
    mut stream: BufReader<S>,
    greet: bool,
    offer_tls: bool,
    shared: &Mutex<Shared>,
) -> std::io::Result<Option<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if greet {
        stream.write_all(b"220 test ESMTP\r\n").await?;
    }
    let (mut from, mut to, mut login) = (String::new(), Vec::new(), None);
    while let Some(line) = next_line(&mut stream).await? {
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let address = || {
            rest.split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'))
                .map(|(address, _)| address.to_owned())
        };
        let answer = match verb.to_ascii_uppercase().as_str() {
            "STARTTLS" if offer_tls => {
                stream.write_all(b"220 go on\r\n").await?;
                return Ok(Some(stream.into_inner()));
            }
            "EHLO" if offer_tls => "250-test\r\n250 STARTTLS\r\n",
            _ if offer_tls && verb != "QUIT" => "530 STARTTLS first\r\n",
            "EHLO" => "250-test\r\n250-8BITMIME\r\n250 AUTH PLAIN\r\n",
            "AUTH" => {
                let decoded = STANDARD
                    .decode(rest.strip_prefix("PLAIN ").unwrap_or_default())
                    .unwrap_or_default();
                let mut parts = decoded
                    .split(|byte| *byte == 0)
                    .skip(1)
                    .map(|part| String::from_utf8_lossy(part).into_owned());
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
                stream.write_all(b"354 go on\r\n").await?;
                let mut text = String::new();
                while let Some(line) = next_line(&mut stream).await?.filter(|line| line != ".") {
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    text.push_str("\r\n");
                }
                let mut shared = shared.lock().unwrap();
                shared.2 += 1;
                match shared.0 {
                    Mood::Takes => {
                        shared.1.push(Received {
                            from: from.clone(),
                            to: to.clone(),
                            text,
                            login: login.clone(),
                        });
                        "250 taken\r\n"
                    }
                    Mood::Busy => "451 later\r\n",
                    Mood::Refuses => "554 never\r\n",
                }
            }
            "RSET" | "NOOP" => "250 ok\r\n",
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(None);
            }
            _ => "502 what?\r\n",
        };
        stream.write_all(answer.as_bytes()).await?;
    }
    Ok(None)
}

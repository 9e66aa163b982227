//! A network between the service and PostgreSQL that a test may break, in each direction by itself.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::database::Database;

/// The fate of the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They arrive.
    Pass,
    /// They arrive later by this.
    Delay(Duration),
    /// They are kept back until the flow is set to something else: a network that hangs.
    Freeze,
    /// They are lost.
    Drop,
    /// Their connection is closed instead: an answer that was on its way is lost.
    Cut,
}

/// Listens on a port of 127.0.0.1 and passes everything on to a PostgreSQL. Stops when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    network: Arc<Network>,
    listener: JoinHandle<()>,
}

#[derive(Debug)]
struct Network {
    upstream: PathBuf,
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
    /// Counts the cuts: each connection ends when it changes.
    cuts: watch::Sender<u64>,
    /// Counts the hang-ups: the service's side of each connection ends when it changes.
    hang_ups: watch::Sender<u64>,
    /// The number of connections so far.
    carried: AtomicU64,
    /// Connections of this number and above are spared.
    spared_from: AtomicU64,
    refuses: AtomicBool,
    /// Counts refused connections.
    refused: AtomicU64,
    /// The `application_name` of the connections that the test may break; empty for all.
    only: Mutex<String>,
    passed_to_server: AtomicU64,
    passed_to_client: AtomicU64,
    /// Counts the messages that were frozen.
    held: AtomicU64,
}

impl Proxy {
    /// A proxy to the cluster of this database.
    pub(crate) async fn to(database: &Database) -> Proxy {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let network = Arc::new(Network {
            upstream: database.cluster().socket(),
            to_server: watch::Sender::new(Flow::Pass),
            to_client: watch::Sender::new(Flow::Pass),
            cuts: watch::Sender::new(0),
            hang_ups: watch::Sender::new(0),
            carried: AtomicU64::new(0),
            spared_from: AtomicU64::new(u64::MAX),
            refuses: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            only: Mutex::default(),
            passed_to_server: AtomicU64::new(0),
            passed_to_client: AtomicU64::new(0),
            held: AtomicU64::new(0),
        });
        let listener = tokio::spawn({
            let network = network.clone();
            async move {
                while let Ok((client, _)) = socket.accept().await {
                    // Subscribes before it looks at `refuses`: `sever` sets them in the other
                    // order, so that no connection slips through in between.
                    let cuts = network.cuts.subscribe();
                    // A refused client notices that its socket is dropped.
                    if network.refuses.load(Ordering::SeqCst) {
                        network.refused.fetch_add(1, Ordering::SeqCst);
                    } else {
                        tokio::spawn(network.clone().carry(client, cuts));
                    }
                }
            }
        });
        Proxy {
            port,
            network,
            listener,
        }
    }

    /// The options of connections to that database through this proxy.
    pub(crate) fn options(&self, database: &Database) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(super::cluster::SUPERUSER)
            .password("")
            .database(&database.name)
            .ssl_mode(PgSslMode::Disable)
    }

    /// The same as a URL, for `DATABASE_URL`.
    pub(crate) fn url(&self, database: &Database) -> String {
        format!(
            "postgres://{}@127.0.0.1:{}/{}?sslmode=disable",
            super::cluster::SUPERUSER,
            self.port,
            database.name
        )
    }

    /// Spares all connections but those that give this as their `application_name` when they are
    /// made.
    pub(crate) fn only(&self, application_name: &str) {
        application_name.clone_into(&mut self.network.only.lock().unwrap());
    }

    /// Spares the connections that are made from now on, until [`Proxy::mend`]: what is done to the
    /// network is done to the old ones only.
    pub(crate) fn only_old(&self) {
        let carried = self.network.carried.load(Ordering::SeqCst);
        self.network.spared_from.store(carried, Ordering::SeqCst);
    }

    /// Sets the fate of the bytes that the service sends.
    pub(crate) fn requests(&self, flow: Flow) {
        self.network.to_server.send_replace(flow);
    }

    /// Sets the fate of the bytes that PostgreSQL sends.
    pub(crate) fn answers(&self, flow: Flow) {
        self.network.to_client.send_replace(flow);
    }

    /// Closes every connection; new ones are welcome.
    pub(crate) fn cut(&self) {
        self.network.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Closes the service's side of every connection. What the service has sent still arrives, when
    /// the flow lets it.
    pub(crate) fn hang_up(&self) {
        self.network.hang_ups.send_modify(|hang_ups| *hang_ups += 1);
    }

    /// Closes every connection and refuses new ones, until [`Proxy::mend`].
    pub(crate) fn sever(&self) {
        self.network.refuses.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Connections that were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.network.refused.load(Ordering::SeqCst)
    }

    /// Back to a network that works.
    pub(crate) fn mend(&self) {
        self.network.refuses.store(false, Ordering::SeqCst);
        self.requests(Flow::Pass);
        self.answers(Flow::Pass);
        self.network.spared_from.store(u64::MAX, Ordering::SeqCst);
    }

    /// Bytes that reached PostgreSQL so far.
    pub(crate) fn passed_to_server(&self) -> u64 {
        self.network.passed_to_server.load(Ordering::SeqCst)
    }

    /// Messages that were frozen so far, in either direction.
    pub(crate) fn held(&self) -> u64 {
        self.network.held.load(Ordering::SeqCst)
    }

    /// Bytes that reached the service so far.
    pub(crate) fn passed_to_client(&self) -> u64 {
        self.network.passed_to_client.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

impl Network {
    async fn carry(self: Arc<Self>, mut client: TcpStream, mut cuts: watch::Receiver<u64>) {
        client.set_nodelay(true).ok();
        let number = self.carried.fetch_add(1, Ordering::SeqCst);
        let mut hang_ups = self.hang_ups.subscribe();
        // Without TLS, the first message has the settings of the session: pairs of strings, each
        // ended by a zero.
        let mut startup = vec![0; 4096];
        let Ok(length @ 1..) = client.read(&mut startup).await else {
            return;
        };
        startup.truncate(length);
        let name = {
            let mut words = startup.split(|byte| *byte == 0);
            words
                .find(|word| word.ends_with(b"application_name"))
                .and_then(|_| words.next())
                .unwrap_or_default()
                .to_vec()
        };
        let Ok(mut server) = UnixStream::connect(&self.upstream).await else {
            return;
        };
        if server.write_all(&startup).await.is_err() {
            return;
        }
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let spared = || {
            let only = self.only.lock().unwrap();
            let is_new = number >= self.spared_from.load(Ordering::SeqCst);
            is_new || !only.is_empty() && only.as_bytes() != name
        };
        let [requests_hand, answers_hand] = [Hand::default(), Hand::default()];
        let mut requests = pin!(pump(
            from_client,
            to_server,
            self.to_server.subscribe(),
            (&self.passed_to_server, &self.held),
            &requests_hand,
            &spared,
        ));
        let answers = pump(
            from_server,
            to_client,
            self.to_client.subscribe(),
            (&self.passed_to_client, &self.held),
            &answers_hand,
            &spared,
        );
        let cut = async { while cuts.changed().await.is_ok() && spared() {} };
        let hung_up = async { while hang_ups.changed().await.is_ok() && spared() {} };
        // Whichever ends first ends the connection, in both directions.
        // A cut comes first, or it might still pass a message after the flow was mended.
        let has_hung_up = tokio::select! {
            biased;
            () = cut => false,
            () = hung_up => true,
            () = &mut requests => false,
            () = answers => false,
        };
        // The answers' half of the client's socket is closed: the client sees the end.
        if has_hung_up && requests_hand.is_full.load(Ordering::SeqCst) {
            requests_hand.is_last.store(true, Ordering::SeqCst);
            requests.await;
        }
    }
}

/// The bytes that one direction of a connection has taken up and not yet delivered.
#[derive(Debug, Default)]
struct Hand {
    is_full: AtomicBool,
    /// True if the direction ends once these have arrived.
    is_last: AtomicBool,
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut flow: watch::Receiver<Flow>,
    (passed, held): (&AtomicU64, &AtomicU64),
    hand: &Hand,
    spared: impl Fn() -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        hand.is_full.store(true, Ordering::SeqCst);
        if *flow.borrow() == Flow::Freeze && !spared() {
            held.fetch_add(1, Ordering::SeqCst);
        }
        // Judged by the flow at their arrival, except that frozen ones wait for the next.
        let Ok(now) = flow
            .wait_for(|flow| *flow != Flow::Freeze || spared())
            .await
            .map(|flow| *flow)
        else {
            return;
        };
        let now = if spared() { Flow::Pass } else { now };
        match now {
            Flow::Drop => {
                hand.is_full.store(false, Ordering::SeqCst);
                continue;
            }
            Flow::Cut => return,
            Flow::Delay(time) => tokio::time::sleep(time).await,
            Flow::Pass | Flow::Freeze => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        passed.fetch_add(length as u64, Ordering::SeqCst);
        hand.is_full.store(false, Ordering::SeqCst);
        if hand.is_last.load(Ordering::SeqCst) {
            return;
        }
    }
}

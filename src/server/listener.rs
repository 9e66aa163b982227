//! The listener: the time and memory that a connection may take before it has asked for anything,
//! and its place among the others.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::http::Request;
use axum::response::Response;
use axum_server::accept::DefaultAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use axum_server::{AddrListener, Address, Handle, Server};
use hyper::body::Incoming;
use nix::errno::Errno;
use nix::sys::socket::{Backlog, listen};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::Service;

use super::activity::{Activity, InUse};
use super::connections::{Admission, Connections, Refusal, metric};

/// For a new connection to send its first request, and for its TLS handshake before that.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// For a kept connection to send the head of its next request; so also how long an idle one is
/// kept. Longer than the minute that load balancers keep theirs, so that it is they who close.
const NEXT_REQUEST: Duration = Duration::from_secs(75);
/// All headers of a request together, bytes; beyond it the answer is 431.
const HEADER_BYTES: usize = 32 * 1024;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 256;
/// How long a silent HTTP/2 peer is left alone, and then how long it may take to answer a ping.
const HTTP2_PING: Duration = Duration::from_secs(30);
/// How often refused connections and failed accepts are warned of, at most.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Takes the port.
///
/// # Errors
/// A sentence that names the setting.
pub(super) fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        // Once more, for a longer backlog: a connection that finds it full is not refused but tries
        // again a second later, and the standard library asks for 128 places.
        listen(&listener, Backlog::MAXCONN)?;
        Ok::<_, io::Error>(listener)
    };
    open().with_context(|| format!("cannot listen on {address} ({setting})"))
}

/// Serves until the handle says otherwise.
///
/// # Errors
/// The system's error, where the listener cannot be used.
pub async fn serve<M, S>(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    connections: Arc<Connections>,
    handle: Handle<Peer>,
    make_service: M,
) -> io::Result<()>
where
    M: Service<SocketAddr, Response = S, Error = Infallible>,
    M::Future: Send,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    listener.set_nonblocking(true)?;
    let listener = Admitting {
        listener: tokio::net::TcpListener::from_std(listener)?,
        connections: Arc::clone(&connections),
        refused: Warning::default(),
    };
    let failed = Warning::default();
    let mut server = Server::from_listener(listener)
        .handle(handle)
        .first_request_timeout(FIRST_REQUEST)
        .accept_error_handler(move |peer: Option<&Peer>, error| match peer {
            // A client that does not speak TLS, or not in time.
            Some(peer) => tracing::debug!(peer = %peer.address, %error, "handshake failed"),
            None => {
                metrics::counter!(metric::ACCEPTS_FAILED).increment(1);
                if let Some(times) = failed.is_due() {
                    tracing::error!(%error, times, "connections could not be accepted");
                }
            }
        });
    let builder = server.http_builder();
    // Answers are short: copying a body behind its head costs less than telling the kernel of two
    // pieces.
    builder
        .http1()
        .header_read_timeout(NEXT_REQUEST)
        .max_buf_size(HEADER_BYTES)
        .writev(false);
    builder
        .http2()
        .max_header_list_size(HEADER_BYTES as u32)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    let make_service = MakeObserved(make_service);
    let serving = async {
        match tls {
            Some(config) => {
                let acceptor = RustlsAcceptor::new(config).handshake_timeout(FIRST_REQUEST);
                server.acceptor(acceptor).serve(make_service).await
            }
            None => {
                server
                    .acceptor(DefaultAcceptor::new())
                    .serve(make_service)
                    .await
            }
        }
    };
    tokio::select! {
        ended = serving => ended,
        () = connections.keep_time() => Ok(()),
    }
}

/// A client that is connected: what axum-server knows a connection by.
#[derive(Clone, Debug)]
pub struct Peer {
    address: SocketAddr,
    activity: Arc<Activity>,
}

impl Address for Peer {
    type Stream = Stream;
    type Listener = Admitting;
}

/// A listener that hands over only connections that there is room for.
#[derive(Debug)]
pub struct Admitting {
    listener: tokio::net::TcpListener,
    connections: Arc<Connections>,
    refused: Warning,
}

impl AddrListener<Stream, Peer> for Admitting {
    async fn bind_to(_: Peer) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn accept_stream(&self) -> io::Result<(Stream, Peer)> {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    let errno = error.raw_os_error().map(Errno::from_raw);
                    if matches!(errno, Some(Errno::EMFILE | Errno::ENFILE)) {
                        self.connections.make_room();
                    }
                    return Err(error);
                }
            };
            match self.connections.admit(address.ip(), stream.as_raw_fd()) {
                Ok(admission) => {
                    // Fails where the client has gone, which its task finds out by itself.
                    let _ = stream.set_nodelay(true);
                    let peer = Peer {
                        address,
                        activity: Arc::clone(&admission.activity),
                    };
                    return Ok((Stream { admission, stream }, peer));
                }
                Err(refusal) => self.refuse(refusal, address),
            }
        }
    }

    fn get_local_addr(&self) -> io::Result<Peer> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Admitting {
    fn refuse(&self, refusal: Refusal, peer: SocketAddr) {
        let bound = match refusal {
            Refusal::Total => "total",
            Refusal::Network => "network",
        };
        metrics::counter!(metric::REFUSED, "bound" => bound).increment(1);
        if let Some(times) = self.refused.is_due() {
            tracing::warn!(
                %peer,
                bound,
                times,
                "connections were refused: as many as may be are open, and none of them is idle"
            );
        }
    }
}

/// A warning that is given at most every [`WARNING_INTERVAL`], and counts the events between.
#[derive(Debug, Default)]
struct Warning {
    last: Mutex<Option<Instant>>,
    times: AtomicU64,
}

impl Warning {
    /// The number of events since the last warning, if there is to be another one now.
    fn is_due(&self) -> Option<u64> {
        self.times.fetch_add(1, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < WARNING_INTERVAL) {
            return None;
        }
        *last = Some(Instant::now());
        Some(self.times.swap(0, Ordering::Relaxed))
    }
}

/// A connection in its place. The fields are dropped in their order: it gives its place up while
/// the socket is still its own.
#[derive(Debug)]
pub struct Stream {
    #[expect(dead_code, reason = "held until the stream is dropped")]
    admission: Admission,
    stream: TcpStream,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Makes the services of connections, which note when they are in use.
struct MakeObserved<M>(M);

impl<M> Service<Peer> for MakeObserved<M>
where
    M: Service<SocketAddr, Error = Infallible>,
{
    type Response = Observed<M::Response>;
    type Error = Infallible;
    type Future = MakingObserved<M::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, peer: Peer) -> Self::Future {
        MakingObserved {
            service: self.0.call(peer.address),
            activity: Some(peer.activity),
        }
    }
}

pin_project_lite::pin_project! {
    struct MakingObserved<F> {
        #[pin]
        service: F,
        activity: Option<Arc<Activity>>,
    }
}

impl<F, S> Future for MakingObserved<F>
where
    F: Future<Output = Result<S, Infallible>>,
{
    type Output = Result<Observed<S>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let service = ready!(this.service.poll(context))?;
        let activity = this.activity.take().expect("not polled after its end");
        Poll::Ready(Ok(Observed { service, activity }))
    }
}

/// The service of a connection, which is in use while a request is answered.
#[derive(Clone)]
struct Observed<S> {
    service: S,
    activity: Arc<Activity>,
}

impl<S> Service<Request<Incoming>> for Observed<S>
where
    S: Service<Request<Incoming>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        Answering {
            in_use: self.activity.begin(),
            answer: self.service.call(request),
        }
    }
}

pin_project_lite::pin_project! {
    struct Answering<F> {
        in_use: InUse,
        #[pin]
        answer: F,
    }
}

impl<F: Future> Future for Answering<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().answer.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    #[test]
    fn many_may_connect_before_the_first_is_accepted() {
        let listener = bind("--listen", (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // One that does not fit in is not refused: it would hang.
        let connect = |_| TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let connected: io::Result<Vec<_>> = (0..400).map(connect).collect();
        assert!(connected.is_ok(), "{connected:?}");
    }

    #[test]
    fn a_warning_is_given_at_once_and_then_rarely() {
        let warning = Warning::default();
        assert_eq!(warning.is_due(), Some(1));
        assert_eq!([(); 3].map(|()| warning.is_due()), [None; 3]);
        *warning.last.lock().unwrap() = Instant::now().checked_sub(WARNING_INTERVAL);
        assert_eq!(warning.is_due(), Some(4));
    }
}

//! The listener: what a connection may take in time and memory before it has asked for anything.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::Context;
use axum::http::Request;
use axum::response::Response;
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper::body::Incoming;
use nix::sys::socket::{Backlog, listen};
use tower::Service;

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

/// Takes the port.
///
/// # Errors
/// A sentence that names the setting.
pub(super) fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || {
        let listener = TcpListener::bind(address)?;
        // Once more, for a longer line: a connection that finds it full is not refused but tries
        // again a second later, and the standard library asks for 128 places.
        listen(&listener, Backlog::MAXCONN)?;
        Ok::<_, io::Error>(listener)
    };
    open().with_context(|| format!("cannot listen on {address} ({setting})"))
}

/// Serves until the handle says otherwise.
///
/// # Errors
/// What the system says.
pub async fn serve<M, S>(
    listener: TcpListener,
    tls: Option<RustlsConfig>,
    handle: Handle<SocketAddr>,
    make_service: M,
) -> io::Result<()>
where
    M: Service<SocketAddr, Response = S, Error = Infallible>,
    M::Future: Send,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut server = axum_server::from_tcp(listener)?
        .handle(handle)
        .first_request_timeout(FIRST_REQUEST);
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
    match tls {
        Some(config) => {
            let acceptor = RustlsAcceptor::new(config)
                .handshake_timeout(FIRST_REQUEST)
                .acceptor(NoDelayAcceptor::new());
            server.acceptor(acceptor).serve(make_service).await
        }
        None => {
            server
                .acceptor(NoDelayAcceptor::new())
                .serve(make_service)
                .await
        }
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
}

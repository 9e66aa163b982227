//! Requests to a node without a network in between: no client then normalises what a test sends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lockable::secret::Secret;
use tower::ServiceExt as _;

use super::answer::Answer;
use super::app::TestApp;

impl TestApp {
    /// Sends a request as it is. The peer is 192.0.2.1, unless the request has an `IpAddr` as an
    /// extension.
    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let peer = request
            .extensions_mut()
            .remove::<IpAddr>()
            .unwrap_or(Ipv4Addr::new(192, 0, 2, 1).into());
        let connection = self.front.at(SocketAddr::new(peer, 50_000));
        let (parts, body) = connection.oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// `GET` with a token.
    pub(crate) async fn get(&self, token: &Secret, path_and_query: &str) -> Answer {
        self.send(request(Method::GET, path_and_query, token)).await
    }

    /// `GET` with a token, answered with 200: `true` or `false`.
    pub(crate) async fn verdict(&self, token: &Secret, path_and_query: &str) -> bool {
        self.get(token, path_and_query).await.verdict()
    }
}

/// A request with a token. A test adds to it what it is about.
pub(crate) fn request(method: Method, path_and_query: &str, token: &Secret) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path_and_query)
        .header(header::AUTHORIZATION, basic(token.expose(), ""))
        .header("x-request-id", "the-request-id")
        .body(Body::empty())
        .unwrap()
}

/// The value of `Authorization` for a user name and a password.
pub(crate) fn basic(user: &str, password: &str) -> HeaderValue {
    let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
    HeaderValue::from_str(&format!("Basic {credentials}")).unwrap()
}

//! Clients: without a token, with a token, a browser.

use std::collections::BTreeMap;
use std::sync::Mutex;

use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::{Method, RequestBuilder};

pub(crate) use super::answer::Answer;

/// A client without a token.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    pub(crate) fn new(url: String) -> Client {
        // Another test may have installed it already.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Client { http, url }
    }

    /// A request to a path, to be refined and then sent with [`send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }
}

/// Sends a request and reads the answer. Panics if there is none.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.unwrap()
}

/// Sends a request and reads the answer.
pub(crate) async fn try_send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    Ok(Answer {
        status,
        headers,
        text: response.text().await?,
    })
}

/// A client with an API token.
#[derive(Debug, Clone)]
pub(crate) struct TokenClient {
    client: Client,
    token: String,
}

impl TokenClient {
    pub(crate) fn new(client: Client, token: String) -> TokenClient {
        TokenClient { client, token }
    }

    /// A request with the token, to be refined and then sent with [`send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, path)
            .basic_auth(&self.token, Some(""))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// `GET /v1/acquire/{name}`. A query may follow the name.
    pub(crate) async fn acquire(&self, name: &str) -> Answer {
        self.get(&format!("/v1/acquire/{name}")).await
    }

    pub(crate) async fn heartbeat(&self, name: &str) -> Answer {
        self.get(&format!("/v1/heartbeat/{name}")).await
    }

    pub(crate) async fn release(&self, name: &str) -> Answer {
        self.get(&format!("/v1/release/{name}")).await
    }
}

/// A browser, as far as the service can tell: it sends cookies back, and the headers that say which
/// page a request comes from.
#[derive(Debug)]
pub(crate) struct Browser {
    client: Client,
    cookies: Mutex<BTreeMap<String, String>>,
}

impl Browser {
    pub(crate) fn new(client: Client) -> Browser {
        Browser {
            client,
            cookies: Mutex::default(),
        }
    }

    /// Follows a link, or types a URL.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.client.request(Method::GET, path)).await
    }

    /// Submits a form of one of the service's own pages.
    pub(crate) async fn submit(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request = self
            .client
            .request(Method::POST, path)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("origin", &self.client.url)
            .header("sec-fetch-site", "same-origin")
            .body(form);
        self.send(request).await
    }

    /// Submits a form, and opens the page that the answer leads to.
    pub(crate) async fn submit_and_follow(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let answer = self.submit(path, fields).await;
        let location = answer.location().to_owned();
        self.get(location.strip_prefix(&self.client.url).unwrap_or(&location))
            .await
    }

    /// Sends a request of the test's own with the cookies, and keeps those of the answer.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let cookies = self.cookies();
        let request = if cookies.is_empty() {
            request
        } else {
            request.header(COOKIE, cookies)
        };
        let answer = send(request).await;
        for line in answer.headers.get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            let gone = line.to_ascii_lowercase().contains("max-age=0") || value.is_empty();
            let mut cookies = self.cookies.lock().unwrap();
            if gone {
                cookies.remove(name)
            } else {
                cookies.insert(name.to_owned(), value.to_owned())
            };
        }
        answer
    }

    /// The value of its `Cookie` header.
    pub(crate) fn cookies(&self) -> String {
        let cookies = self.cookies.lock().unwrap();
        cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// A request of the test's own, to be sent with [`Browser::send`].
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, path)
    }
}

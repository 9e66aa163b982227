//! Callers: anybody, somebody with a token, a browser.

use std::collections::BTreeMap;
use std::sync::Mutex;

use reqwest::header::{COOKIE, SET_COOKIE};
use reqwest::{Method, RequestBuilder};

pub(crate) use super::answer::Answer;

/// Somebody whom the service does not know.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    pub(crate) fn new(url: String) -> Client {
        // Somebody else may have installed it: all that matters is that there is one.
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

/// Sends it, and reads the answer. Panics where there is none.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    try_send(request).await.unwrap()
}

/// Sends it, and reads the answer, if there is one.
pub(crate) async fn try_send(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status(), response.headers().clone());
    Ok(Answer {
        status,
        headers,
        text: response.text().await?,
    })
}

/// Somebody with an API token.
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

    /// `GET /v1/acquire/{name}`, where the name may carry a query.
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

/// Somebody with a browser, as far as the service can tell: sends its cookies back, and says where
/// its requests come from.
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

    /// Follows a link, or types an address.
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

    /// What it would send as its cookies.
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

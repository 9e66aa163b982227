//! Version 2 of the API, from the caller's side: the locks of one namespace.

mod objects;
mod stream;

pub(super) use objects::{Lease, Lock, Waiter};
pub(super) use stream::{EventStream, Message};

use clap::Args;
use percent_encoding::utf8_percent_encode;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use url::Url;

use super::api::{Problem, RequestError, connect, failure};
use super::clock::{self, BootInstant};
use super::http::{ESCAPED, TIMEOUT, causes};
use super::service::{Service, ServiceArgs};
use crate::locks::LockName;
use crate::namespaces::{self, PUBLIC};

/// The most locks of a page: long lists take few requests.
const PAGE: &str = "1000";

/// The options of commands that look at the locks of a namespace.
#[derive(Args, Clone, Debug)]
pub(super) struct NamespaceArgs {
    #[command(flatten)]
    service: ServiceArgs,
    /// Namespace of the lock: public, or a private one that the token may see
    #[arg(
        long,
        env = "LOCKABLE_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = PUBLIC,
        value_parser = namespace
    )]
    namespace: String,
}

/// The rule for names of namespaces keeps out all that a URL's path would not carry.
fn namespace(name: &str) -> Result<String, namespaces::NamespaceError> {
    if name != PUBLIC {
        namespaces::check_name(name)?;
    }
    Ok(name.to_owned())
}

/// A connection to the service, for the locks of one namespace.
#[derive(Debug)]
pub(super) struct NamespaceApi {
    client: Client,
    service: Service,
    namespace: String,
}

/// An answer of the service as it was sent, and what it means.
#[derive(Debug)]
pub(super) struct Answer<T> {
    /// JSON, on one line.
    pub(super) json: String,
    pub(super) value: T,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) locks: Vec<Answer<Lock>>,
    /// Names the next page; `None` if this is the last one.
    pub(super) next_cursor: Option<String>,
}

/// The outcome of a request that changes something.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was done: the answer, JSON on one line.
    Done(String),
    /// Conflict: it was not done, and nothing was changed.
    Refused(Problem),
}

impl NamespaceApi {
    /// # Errors
    /// If the options name no service, or this machine cannot send requests.
    pub(super) fn new(args: &NamespaceArgs) -> Result<Self, RequestError> {
        let (client, service) = connect(&args.service)?;
        Ok(Self {
            client,
            service,
            namespace: args.namespace.clone(),
        })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Looks at a lock.
    pub(super) async fn lock(&self, name: &LockName) -> Result<Answer<Lock>, RequestError> {
        let json = self.get(self.url(&["locks", name.as_str()], &[])).await?;
        let value = self.read(&json)?;
        Ok(Answer { json, value })
    }

    /// A page of the held locks whose names begin with the prefix.
    pub(super) async fn locks(
        &self,
        prefix: Option<&str>,
        cursor: Option<&str>,
    ) -> Result<Page, RequestError> {
        #[derive(Deserialize)]
        struct Body {
            locks: Vec<Box<RawValue>>,
            next_cursor: Option<String>,
        }
        let query = [
            ("prefix", prefix),
            ("cursor", cursor),
            ("limit", Some(PAGE)),
        ];
        let json = self.get(self.url(&["locks"], &query)).await?;
        let body: Body = self.read(&json)?;
        let locks = body.locks.iter().map(|lock| {
            Ok(Answer {
                json: lock.get().to_owned(),
                value: self.read(lock.get())?,
            })
        });
        Ok(Page {
            locks: locks.collect::<Result<_, RequestError>>()?,
            next_cursor: body.next_cursor,
        })
    }

    /// Ends leases of a lock by force.
    pub(super) async fn break_lock(
        &self,
        name: &LockName,
        body: &serde_json::Value,
    ) -> Result<Outcome, RequestError> {
        let url = self.url(&["locks", name.as_str(), "break"], &[]);
        let request = self.request(Method::POST, url).json(body).timeout(TIMEOUT);
        let response = request.send().await.map_err(|error| no_answer(&error))?;
        let (status, result) = self.finish(response).await;
        match result {
            Err((_, problem)) if status == StatusCode::CONFLICT => Ok(Outcome::Refused(problem)),
            Err((error, _)) => Err(error),
            Ok(json) => Ok(Outcome::Done(json)),
        }
    }

    /// Follows the events of a lock, or of all of the namespace, from now on or behind an event.
    pub(super) async fn events(
        &self,
        name: Option<&LockName>,
        last_event_id: Option<&str>,
    ) -> Result<EventStream, RequestError> {
        let url = match name {
            Some(name) => self.url(&["locks", name.as_str(), "events"], &[]),
            None => self.url(&["events"], &[]),
        };
        // No time-out: the answer has no end.
        let mut request = self
            .request(Method::GET, url)
            .header("accept", "text/event-stream")
            .header("cache-control", "no-store");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = clock::timeout_at(BootInstant::now() + TIMEOUT, request.send())
            .await
            .ok_or_else(|| RequestError::unavailable("no answer: it took too long".to_owned()))?
            .map_err(|error| no_answer(&error))?;
        if response.status() != StatusCode::OK {
            return match self.finish(response).await.1 {
                Err((error, _)) => Err(error),
                Ok(_) => Err(self.is_no_service()),
            };
        }
        let content_type = response.headers().get("content-type");
        if !content_type.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream")) {
            return Err(self.is_no_service());
        }
        Ok(EventStream::new(response))
    }

    /// A value of an answer.
    ///
    /// # Errors
    /// If it is not what the service answers.
    pub(super) fn read<T: DeserializeOwned>(&self, json: &str) -> Result<T, RequestError> {
        serde_json::from_str(json).map_err(|_| self.is_no_service())
    }

    async fn get(&self, url: Url) -> Result<String, RequestError> {
        let request = self.request(Method::GET, url).timeout(TIMEOUT);
        let response = request.send().await.map_err(|error| no_answer(&error))?;
        self.finish(response).await.1.map_err(|(error, _)| error)
    }

    /// Reads an answer to its end: JSON on one line, or the error and its problem document.
    async fn finish(
        &self,
        response: Response,
    ) -> (StatusCode, Result<String, (RequestError, Problem)>) {
        let status = response.status();
        let headers = response.headers().clone();
        let broke_off = |cause: &str| {
            let error = RequestError::unavailable(format!("the answer broke off: {cause}"));
            (status, Err((error, Problem::default())))
        };
        let body = match clock::timeout_at(BootInstant::now() + TIMEOUT, response.bytes()).await {
            Some(Ok(body)) => body,
            Some(Err(error)) => return broke_off(&causes(&error)),
            None => return broke_off("it took too long"),
        };
        if status == StatusCode::OK {
            // Line breaks of JSON stand between its tokens only.
            let json = String::from_utf8(body.into())
                .map(|text| text.trim().replace(['\n', '\r'], " "))
                .map_err(|_| (self.is_no_service(), Problem::default()));
            return (status, json);
        }
        let problem = Problem::read(&body);
        let mut error = failure(status, &headers, &problem);
        if status == StatusCode::NOT_FOUND
            && let RequestError::Refused(sentence) = &mut error
        {
            let namespace = &self.namespace;
            sentence.truncate(sentence.trim_end_matches('.').len());
            sentence.push_str(&format!(
                "; this was about the namespace {namespace:?}: is it the token's? \
                 LOCKABLE_NAMESPACE (or --namespace) names another"
            ));
        }
        (status, Err((error, problem)))
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client
            .request(method, url)
            .basic_auth(self.service.auth_token.expose(), Some(""))
    }

    /// A URL below the namespace's. Names are escaped here, as in version 1.
    fn url(&self, segments: &[&str], query: &[(&str, Option<&str>)]) -> Url {
        let mut url = self.service.url.clone();
        let prefix = url.path().trim_end_matches('/').to_owned();
        let mut path = format!("{prefix}/v2/namespaces/{}", self.namespace);
        for segment in segments {
            path.push('/');
            path.extend(utf8_percent_encode(segment, ESCAPED));
        }
        url.set_path(&path);
        let query: Vec<String> = query
            .iter()
            .filter_map(|(name, value)| {
                let value = utf8_percent_encode((*value)?, ESCAPED);
                Some(format!("{name}={value}"))
            })
            .collect();
        if !query.is_empty() {
            url.set_query(Some(&query.join("&")));
        }
        url
    }

    fn is_no_service(&self) -> RequestError {
        RequestError::Refused(format!(
            "{} does not answer like a Lockable service with version 2 of the API",
            self.service.url
        ))
    }
}

fn no_answer(error: &reqwest::Error) -> RequestError {
    RequestError::unavailable(format!("no answer: {}", causes(error)))
}

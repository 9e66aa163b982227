//! The guard around handlers: turns a panic or a missed deadline into an answer, and lets each side
//! of the house finish its answers (the API writes problem documents, the pages their error page).

use std::any::Any;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt;
use tower::{Layer, Service};

use super::{RequestContext, RequestId};

/// The end of a handler.
#[derive(Debug)]
pub enum HandlerResult {
    /// With an answer, which may still lack what the handler did not know, such as the request id.
    Answer(Response),
    /// By a panic, which is in the log already.
    Panicked,
    /// Not within the deadline; whether it had an effect is not known.
    TimedOut,
}

/// Turns the end of a handler into the answer that is sent.
pub type Finish = Arc<dyn Fn(HandlerResult, &RequestContext) -> Response + Send + Sync>;

/// Puts [`Guard`] around a service.
#[derive(Clone)]
pub struct GuardLayer {
    finish: Finish,
    deadline: Duration,
}

impl GuardLayer {
    /// Answers through `finish`, after `deadline` at the latest.
    pub fn new(
        deadline: Duration,
        finish: impl Fn(HandlerResult, &RequestContext) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self {
            finish: Arc::new(finish),
            deadline,
        }
    }
}

impl GuardLayer {
    /// Runs a handler that keeps to a deadline by itself: only its panics are caught.
    pub async fn catch(
        &self,
        handler: impl Future<Output = Response>,
        context: &RequestContext,
    ) -> Response {
        // Unwind safe: state that the handler left half done is behind locks that know of a panic.
        let result = match AssertUnwindSafe(handler).catch_unwind().await {
            Ok(response) => HandlerResult::Answer(response),
            Err(panic) => {
                tracing::error!(
                    request_id = %context.id(),
                    panic = message(&*panic),
                    "a handler panicked"
                );
                HandlerResult::Panicked
            }
        };
        (self.finish)(result, context)
    }

    /// Runs a handler until the deadline.
    pub async fn run(
        &self,
        handler: impl Future<Output = Response>,
        context: &RequestContext,
    ) -> Response {
        match tokio::time::timeout(self.deadline, self.catch(handler, context)).await {
            Ok(response) => response,
            Err(_) => (self.finish)(HandlerResult::TimedOut, context),
        }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`GuardLayer`].
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S> Service<Request> for Guard<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let context = request
            .extensions()
            .get::<RequestContext>()
            .cloned()
            .unwrap_or_else(unknown_request);
        let layer = self.layer.clone();
        let handler = self.inner.call(request);
        Box::pin(async move {
            let handler = async {
                let Ok(response) = handler.await;
                response
            };
            Ok(layer.run(handler, &context).await)
        })
    }
}

/// The context of a request that did not come through the edge, as in some tests.
fn unknown_request() -> RequestContext {
    RequestContext::new(
        RequestId::generate(),
        std::net::Ipv4Addr::UNSPECIFIED.into(),
    )
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

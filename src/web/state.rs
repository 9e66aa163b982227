//! The state that the handlers of pages share.

use std::sync::Arc;

use axum::extract::FromRef;

use super::error::WebError;
use super::form_dedup::FormDeduplicator;
use super::throttle::Throttles;
use crate::app::App;

/// The facts about the API that the documentation lists; the API knows them.
#[derive(Debug)]
pub struct ApiReference {
    /// Its calls.
    pub calls: Vec<ApiCall>,
    /// Its errors.
    pub errors: Vec<ApiError>,
    /// Its description: the OpenAPI document.
    pub document: serde_json::Value,
}

/// A call of the API, as the documentation lists it.
#[derive(Debug)]
pub struct ApiCall {
    /// Its path, with `{name}` for the lock's name.
    pub path: &'static str,
    /// The meaning of the answer `true`.
    pub true_means: &'static str,
    /// The meaning of the answer `false`.
    pub false_means: &'static str,
}

/// An error of the API, as the documentation lists it.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// The code that programs decide by.
    pub code: &'static str,
    /// When it happens and what to do; code between backticks.
    pub meaning: &'static str,
}

impl ApiError {
    /// The pieces of the text, each with whether it is code.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (bool, &'static str)> {
        self.meaning
            .split('`')
            .enumerate()
            .map(|(place, piece)| (place % 2 == 1, piece))
    }
}

/// The state that the handlers of pages share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    pub(crate) app: App,
    pub(crate) throttles: Arc<Throttles>,
    pub(crate) form_dedup: FormDeduplicator,
    pub(crate) api: Arc<ApiReference>,
}

impl Web {
    pub(super) fn new(app: &App, api: ApiReference) -> Self {
        Self {
            app: app.clone(),
            throttles: Arc::new(Throttles::default()),
            form_dedup: FormDeduplicator::default(),
            api: Arc::new(api),
        }
    }

    /// The URL of the service without the slash at its end, for commands to copy.
    pub(crate) fn base_url(&self) -> &str {
        self.app.public_url.as_str().trim_end_matches('/')
    }

    /// The URL where accounts get a larger plan, if the operator has set one.
    pub(crate) fn upgrade_url(&self) -> Option<String> {
        let url = self.app.settings.upgrade_url.as_ref();
        url.map(ToString::to_string)
    }

    /// The error for an account whose plan does not include this feature, named in the plural.
    pub(crate) fn not_in_plan(&self, feature: &str) -> WebError {
        WebError::not_in_plan(feature, self.app.settings.upgrade_url.as_ref())
    }
}

impl FromRef<Web> for App {
    fn from_ref(web: &Web) -> Self {
        web.app.clone()
    }
}

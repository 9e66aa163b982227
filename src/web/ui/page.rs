//! The frame around the content of every page, and how a page becomes a response.

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::web::assets;
use crate::web::error::WebError;

/// The entry of the navigation that a page stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    None,
    Docs,
    ApiReference,
    SignIn,
    Account,
    Security,
    Namespaces,
    Locks,
    AdminAccounts,
    AdminPlans,
    AdminLocks,
    AdminAudit,
}

impl Tab {
    /// The account's pages, in their order: tab, path and label.
    pub(crate) const ACCOUNT: &[(Tab, &str, &str)] = &[
        (Tab::Account, "/account", "Overview"),
        (Tab::Namespaces, "/account/namespaces", "Namespaces"),
        (Tab::Locks, "/account/locks", "Locks"),
        (Tab::Security, "/account/security", "Security"),
    ];

    /// The administrator's pages, in their order: tab, path and label.
    pub(crate) const ADMIN: &[(Tab, &str, &str)] = &[
        (Tab::AdminAccounts, "/admin/accounts", "Accounts"),
        (Tab::AdminPlans, "/admin/plans", "Plans"),
        (Tab::AdminLocks, "/admin/locks", "Locks"),
        (Tab::AdminAudit, "/admin/audit", "Audit log"),
    ];

    fn is_one_of(self, pages: &[(Tab, &str, &str)]) -> bool {
        pages.iter().any(|(tab, ..)| *tab == self)
    }

    pub(crate) fn is_account(self) -> bool {
        self.is_one_of(Self::ACCOUNT)
    }

    pub(crate) fn is_admin(self) -> bool {
        self.is_one_of(Self::ADMIN)
    }
}

/// The signed-in reader of a page.
#[derive(Debug, Clone)]
pub(crate) struct Viewer {
    pub(crate) email: String,
    pub(crate) is_admin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FlashKind {
    Ok,
    Warn,
    Error,
}

/// A flash message: a sentence about what was just done, shown once, on the next page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flash {
    kind: FlashKind,
    pub(crate) text: String,
}

impl Flash {
    fn new(kind: FlashKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self::new(FlashKind::Ok, text)
    }

    pub(crate) fn warn(text: impl Into<String>) -> Self {
        Self::new(FlashKind::Warn, text)
    }

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::new(FlashKind::Error, text)
    }

    /// The class of the message in the style sheet.
    pub(crate) fn class(&self) -> &'static str {
        match self.kind {
            FlashKind::Ok => "ok",
            FlashKind::Warn => "warn",
            FlashKind::Error => "error",
        }
    }
}

/// The frame of a page: the field `page` of every template.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Without the name of the product.
    pub(crate) title: String,
    pub(crate) tab: Tab,
    pub(crate) viewer: Option<Viewer>,
    /// Whether nothing is known about the reader, so that neither signing in nor signing out is
    /// offered.
    pub(crate) is_neutral: bool,
    pub(crate) flash: Option<Flash>,
}

impl Page {
    /// A page for a reader who is not signed in.
    pub(crate) fn visitor(title: impl Into<String>, tab: Tab) -> Self {
        Self {
            title: title.into(),
            tab,
            viewer: None,
            is_neutral: false,
            flash: None,
        }
    }

    /// A page that does not look whether its reader is signed in.
    pub(crate) fn neutral(title: impl Into<String>) -> Self {
        Self {
            is_neutral: true,
            ..Self::visitor(title, Tab::None)
        }
    }

    pub(crate) fn asset(&self, name: &str) -> String {
        assets::path(name)
    }

    pub(crate) fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// Makes the response of a page.
///
/// # Errors
/// If the template fails, which only a bug makes it do.
pub(crate) fn render(template: &impl Template) -> Result<Response, WebError> {
    render_as(StatusCode::OK, template)
}

/// Makes the response of a page with another status, such as that of a form.
///
/// # Errors
/// If the template fails, which only a bug makes it do.
pub(crate) fn render_as(
    status: StatusCode,
    template: &impl Template,
) -> Result<Response, WebError> {
    let html = template
        .render()
        .map_err(|error| WebError::Bug(error.into()))?;
    let content_type = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Ok((status, content_type, html).into_response())
}

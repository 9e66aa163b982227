//! What every page has around its content, and how a page becomes an answer.

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::web::assets;
use crate::web::error::WebError;

/// Which entry of the navigation a page stands under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tab {
    /// None of them.
    None,
    /// The documentation.
    Docs,
    /// Signing in.
    SignIn,
    /// Plan, settings and API tokens.
    Account,
    /// Password, e-mail address, sessions, the end of the account.
    Security,
    /// Private namespaces.
    Namespaces,
    /// Live locks.
    Locks,
    /// Administration: accounts.
    AdminAccounts,
    /// Administration: plans.
    AdminPlans,
    /// Administration: locks in the public namespace.
    AdminLocks,
    /// Administration: the audit log.
    AdminAudit,
}

impl Tab {
    /// The account's pages, in their order.
    pub(crate) const ACCOUNT: &[(Tab, &str, &str)] = &[
        (Tab::Account, "/account", "Overview"),
        (Tab::Namespaces, "/account/namespaces", "Namespaces"),
        (Tab::Locks, "/account/locks", "Locks"),
        (Tab::Security, "/account/security", "Security"),
    ];

    /// The administrator's pages, in their order.
    pub(crate) const ADMIN: &[(Tab, &str, &str)] = &[
        (Tab::AdminAccounts, "/admin/accounts", "Accounts"),
        (Tab::AdminPlans, "/admin/plans", "Plans"),
        (Tab::AdminLocks, "/admin/locks", "Locks"),
        (Tab::AdminAudit, "/admin/audit", "Audit log"),
    ];

    fn stands_in(self, pages: &[(Tab, &str, &str)]) -> bool {
        pages.iter().any(|(tab, ..)| *tab == self)
    }

    /// Whether it is one of the account's pages.
    pub(crate) fn is_account(self) -> bool {
        self.stands_in(Self::ACCOUNT)
    }

    /// Whether it is one of the administrator's pages.
    pub(crate) fn is_admin(self) -> bool {
        self.stands_in(Self::ADMIN)
    }
}

/// Who looks at the page.
#[derive(Debug, Clone)]
pub(crate) struct Viewer {
    /// As they typed it.
    pub(crate) email: String,
    /// Whether the way to the administration is shown.
    pub(crate) is_admin: bool,
}

/// How a flash message looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FlashKind {
    /// It worked.
    Ok,
    /// Mind this.
    Warn,
    /// It did not work.
    Error,
}

impl FlashKind {
    /// Its class in the style sheet.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// A sentence about what was just done, shown on the next page once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Flash {
    /// How it looks.
    pub(crate) kind: FlashKind,
    /// The sentence.
    pub(crate) text: String,
}

impl Flash {
    /// It worked.
    pub(crate) fn ok(text: impl Into<String>) -> Self {
        Self {
            kind: FlashKind::Ok,
            text: text.into(),
        }
    }

    /// Mind this.
    pub(crate) fn warn(text: impl Into<String>) -> Self {
        Self {
            kind: FlashKind::Warn,
            text: text.into(),
        }
    }

    /// It did not work.
    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self {
            kind: FlashKind::Error,
            text: text.into(),
        }
    }
}

/// What every template has as its `page`.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// The title, without the product's name.
    pub(crate) title: String,
    /// Where it stands.
    pub(crate) tab: Tab,
    /// Who is signed in.
    pub(crate) viewer: Option<Viewer>,
    /// Nothing is known about who looks: neither signing in nor signing out is offered.
    pub(crate) neutral: bool,
    /// What was just done.
    pub(crate) flash: Option<Flash>,
}

impl Page {
    /// A page for somebody who is not signed in.
    pub(crate) fn visitor(title: impl Into<String>, tab: Tab) -> Self {
        Self {
            title: title.into(),
            tab,
            viewer: None,
            neutral: false,
            flash: None,
        }
    }

    /// A page that is shown where it is not known who asks.
    pub(crate) fn neutral(title: impl Into<String>) -> Self {
        Self {
            neutral: true,
            ..Self::visitor(title, Tab::None)
        }
    }

    /// The address of an asset.
    pub(crate) fn asset(&self, name: &str) -> String {
        assets::address(name)
    }

    /// This program's version.
    pub(crate) fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// Makes the answer of a page.
///
/// # Errors
/// Where the template fails, which only a bug can do.
pub(crate) fn render(template: &impl Template) -> Result<Response, WebError> {
    render_as(StatusCode::OK, template)
}

/// Makes the answer of a page with another status: 422 for a form that comes back.
///
/// # Errors
/// Where the template fails, which only a bug can do.
pub(crate) fn render_as(
    status: StatusCode,
    template: &impl Template,
) -> Result<Response, WebError> {
    let html = template
        .render()
        .map_err(|error| WebError::Bug(error.into()))?;
    Ok((
        status,
        [(header::CONTENT_TYPE, "text/html; charset=utf-8")],
        html,
    )
        .into_response())
}

/// A number with thin groups of three: 1,000,000.
pub(crate) fn grouped(number: impl Into<i64>) -> String {
    let number: i64 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// A length of time for people: `60 s`, `5 min`, `24 h`, `1.5 s`.
pub(crate) fn duration(ms: impl Into<i64>) -> String {
    let ms: i64 = ms.into();
    match ms {
        ms if ms % 1000 != 0 => format!("{} s", ms as f64 / 1000.0),
        ms if ms >= 7_200_000 && ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms >= 120_000 && ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms => format!("{} s", grouped(ms / 1000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lengths_are_readable() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_000_000), "1,000,000");
        assert_eq!(grouped(-12_345), "-12,345");
        assert_eq!(duration(60_000), "60 s");
        assert_eq!(duration(90_000), "90 s");
        assert_eq!(duration(300_000), "5 min");
        assert_eq!(duration(86_400_000), "24 h");
        assert_eq!(duration(1_500), "1.5 s");
    }
}

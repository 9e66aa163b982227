//! `/admin/audit`: who did what, from what to what, when, from where.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use super::searched;
use crate::audit::{self, Entry, store::Filter};
use crate::id::AccountId;
use crate::web::Web;
use crate::web::account::locks::address;
use crate::web::error::WebError;
use crate::web::session::RequireAdmin;
use crate::web::ui::field::Field;
use crate::web::ui::page::{Page, Tab, grouped, render};
use crate::web::ui::time::When;

/// Lines on a page.
const PAGE: usize = 50;

/// One value that an act changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) what: String,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

/// A line as pages show it.
pub(super) struct Line {
    pub(super) at: When,
    pub(super) actor: String,
    pub(super) address: String,
    pub(super) request_id: String,
    pub(super) action: String,
    pub(super) subject: String,
    pub(super) changes: Vec<Change>,
    pub(super) reason: String,
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Self {
        Self {
            at: When::new(entry.at),
            changes: changes(entry.before.as_ref(), entry.after.as_ref()),
            actor: entry.actor,
            address: entry.client_ip.unwrap_or_default(),
            request_id: entry.request_id.unwrap_or_default(),
            action: entry.action,
            subject: entry.subject,
            reason: entry.reason.unwrap_or_default(),
        }
    }
}

/// What differs between two sets of values, in the order of their names.
fn changes(before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let objects = [before, after]
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    let all: BTreeSet<String> = objects.flat_map(|object| object.keys().cloned()).collect();
    let get = |value: Option<&Value>, key: &str| value.and_then(|value| value.get(key)).map(shown);
    all.into_iter()
        .map(|key| Change {
            from: get(before, &key),
            to: get(after, &key),
            what: words(&key),
        })
        .filter(|change| change.from != change.to)
        .collect()
}

/// `lease_max_ms`: the unit stays, it is part of what the value means.
fn words(key: &str) -> String {
    match key.strip_suffix("_ms") {
        Some(rest) => format!("{} (ms)", rest.replace('_', " ")),
        None => key.replace('_', " "),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_i64().map_or_else(|| number.to_string(), grouped),
        other => other.to_string(),
    }
}

/// The newest lines of a filter, and whether there are more.
pub(super) async fn page_of(
    web: &Web,
    filter: &Filter,
    page: usize,
) -> Result<(Vec<Line>, Option<i64>), WebError> {
    let limit = i64::try_from(page + 1).expect("a page is short");
    let mut entries = audit::list(&web.app.db, filter, limit).await?;
    let more = entries.len() > page;
    entries.truncate(page);
    let last = entries.last().filter(|_| more).map(|entry| entry.audit_id);
    Ok((entries.into_iter().map(Line::from).collect(), last))
}

#[derive(Template)]
#[template(path = "admin/audit.html")]
struct AuditPage {
    page: Page,
    search: Field,
    account: String,
    is_filtered: bool,
    lines: Vec<Line>,
    is_first: bool,
    first_address: String,
    next_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    q: String,
    account: String,
    before: String,
}

pub(crate) async fn list(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Query(asked): Query<Asked>,
) -> Result<Response, WebError> {
    let number = |text: &str| match text {
        "" => Ok(None),
        text => text
            .parse::<i64>()
            .map(Some)
            .map_err(|_| WebError::BadRequest),
    };
    let filter = Filter {
        subject_account_id: number(&asked.account)?.map(AccountId),
        text: searched(&asked.q),
        before_id: number(&asked.before)?,
    };
    let (lines, last) = page_of(&web, &filter, PAGE).await?;
    let mut kept: Vec<(String, String)> = Vec::new();
    for (key, value) in [
        ("q", filter.text.clone().unwrap_or_default()),
        ("account", asked.account.clone()),
    ] {
        if !value.is_empty() {
            kept.push((key.to_owned(), value));
        }
    }
    let next_address = last.map(|last| {
        let mut parameters = kept.clone();
        parameters.push(("before".to_owned(), last.to_string()));
        address("/admin/audit", &parameters)
    });
    render(&AuditPage {
        page: current.page("Audit log", Tab::AdminAudit).await?,
        search: Field::search("q", "Who, what or to whom").value(asked.q),
        account: asked.account,
        is_filtered: !kept.is_empty(),
        lines,
        is_first: filter.before_id.is_none(),
        first_address: address("/admin/audit", &kept),
        next_address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_shown() {
        let before = json!({"lease_max_ms": 60_000, "name": "Hobbyist", "gone": true});
        let after = json!({"lease_max_ms": 3_600_000, "name": "Hobbyist", "new": null});
        let change = |what: &str, from: Option<&str>, to: Option<&str>| Change {
            what: what.to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        assert_eq!(
            changes(Some(&before), Some(&after)),
            [
                change("gone", Some("yes"), None),
                change("lease max (ms)", Some("60,000"), Some("3,600,000")),
                change("new", None, Some("none")),
            ]
        );
        assert_eq!(changes(None, None), []);
    }
}

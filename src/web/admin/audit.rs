//! `/admin/audit`: the audit log.

use std::collections::BTreeSet;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;

use crate::audit::{self, Entry, store::Filter};
use crate::id::AccountId;
use crate::web::error::WebError;
use crate::web::session::RequireAdmin;
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::number::grouped;
use crate::web::ui::page::{Page, Tab, render};
use crate::web::ui::pagination::{FETCHED_ROWS, ListUrl, PaginatedList, row_id, search_text};
use crate::web::ui::time::RelativeTime;

#[derive(Template)]
#[template(path = "admin/audit.html")]
struct AuditPage {
    page: Page,
    search: Field,
    account: Option<AccountId>,
    entries: PaginatedList<Row>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ListQuery {
    #[serde(deserialize_with = "search_text")]
    q: Option<String>,
    #[serde(deserialize_with = "row_id")]
    account: Option<AccountId>,
    #[serde(deserialize_with = "row_id")]
    before: Option<i64>,
}

pub(crate) async fn list(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Query(query): Query<ListQuery>,
) -> Result<Response, WebError> {
    let account = query.account.map(|account_id| account_id.to_string());
    let url = ListUrl::newest_first("/admin/audit")
        .filter("q", query.q.as_deref())
        .filter("account", account.as_deref());
    let filter = Filter {
        subject_account_id: query.account,
        text: query.q,
        before_id: query.before,
    };
    let entries = audit::list(&web.app.db, &filter, FETCHED_ROWS).await?;
    render(&AuditPage {
        page: current.page("Audit log", Tab::AdminAudit).await?,
        search: url.form().field(Field::search("q", "Who, what or to whom")),
        account: query.account,
        entries: url.page(query.before.is_none(), entries, |last| {
            vec![("before", last.audit_id.to_string())]
        }),
    })
}

/// A value that an act changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) name: String,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
}

/// An entry as pages show it.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) entry: Entry,
    pub(super) changes: Vec<Change>,
}

impl From<Entry> for Row {
    fn from(entry: Entry) -> Self {
        Self {
            changes: changes(entry.before.as_ref(), entry.after.as_ref()),
            entry,
        }
    }
}

/// The values that differ between two sets, in the order of their names.
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
            name: words(&key),
        })
        .filter(|change| change.from != change.to)
        .collect()
}

/// The name of a field in words. `lease_max_ms` keeps its unit, without which the value says
/// nothing.
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_values_that_differ_are_shown() {
        let before = json!({"lease_max_ms": 60_000, "name": "Hobbyist", "gone": true});
        let after = json!({"lease_max_ms": 3_600_000, "name": "Hobbyist", "new": null});
        let change = |name: &str, from: Option<&str>, to: Option<&str>| Change {
            name: name.to_owned(),
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

//! Lists that are shown a page at a time, by keyset: the link to the next page names the last row
//! that was shown, so that rows which come and go in between shift nothing.

use std::fmt::Display;
use std::str::FromStr;

use askama::Template;
use serde::de::{Deserialize, Deserializer, Error};

use super::form::FormState;

/// Rows on a page.
const PAGE_SIZE: usize = 50;
/// Rows to fetch for a page: one more than it shows, which says whether there is a next page.
pub(crate) const FETCHED_ROWS: i64 = 51;

/// One page of a list.
#[derive(Debug)]
pub(crate) struct PaginatedList<T> {
    pub(crate) rows: Vec<T>,
    pub(crate) links: PageLinks,
    /// Whether some rows are left out by a filter.
    pub(crate) is_filtered: bool,
}

/// Links to the first and to the next page, empty where one page shows all: `{{ list.links }}`.
#[derive(Debug, Template)]
#[template(path = "parts/page_links.html")]
pub(crate) struct PageLinks {
    labels: (&'static str, &'static str),
    first: Option<String>,
    next: Option<String>,
}
impl askama::filters::HtmlSafe for PageLinks {}

impl PageLinks {
    pub(crate) fn is_first_page(&self) -> bool {
        self.first.is_none()
    }
}

/// The path of a list, and the parameters that its pages keep.
#[derive(Clone, Debug)]
pub(crate) struct ListUrl {
    path: &'static str,
    parameters: Vec<(&'static str, String)>,
    labels: (&'static str, &'static str),
}

impl ListUrl {
    /// A list with the newest rows first.
    pub(crate) fn newest_first(path: &'static str) -> Self {
        Self {
            path,
            parameters: Vec::new(),
            labels: ("Newest", "Older"),
        }
    }

    /// A list in the order of names.
    pub(crate) fn by_name(path: &'static str) -> Self {
        Self {
            labels: ("First page", "Next page"),
            ..Self::newest_first(path)
        }
    }

    /// With a parameter that filters the list. `None` or an empty text filters nothing.
    #[must_use]
    pub(crate) fn filter(mut self, name: &'static str, value: Option<&str>) -> Self {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.parameters.push((name, value.to_owned()));
        }
        self
    }

    /// The form that searches the list, with the filters as its values.
    pub(crate) fn form(&self) -> FormState {
        self.parameters
            .iter()
            .fold(FormState::default(), |form, (name, value)| {
                form.with(name, value)
            })
    }

    /// The page of these rows, of which [`FETCHED_ROWS`] were fetched. `cursor` gives the
    /// parameters by which the page after a row is found.
    pub(crate) fn page<T, U: From<T>>(
        self,
        is_first_page: bool,
        mut rows: Vec<T>,
        cursor: impl FnOnce(&T) -> Vec<(&'static str, String)>,
    ) -> PaginatedList<U> {
        let has_more = rows.len() > PAGE_SIZE;
        rows.truncate(PAGE_SIZE);
        let next = rows.last().filter(|_| has_more).map(|last| {
            let parameters = self.parameters.iter().cloned().chain(cursor(last));
            with_query(self.path, parameters)
        });
        PaginatedList {
            is_filtered: !self.parameters.is_empty(),
            rows: rows.into_iter().map(U::from).collect(),
            links: PageLinks {
                labels: self.labels,
                first: (!is_first_page).then(|| with_query(self.path, self.parameters)),
                next,
            },
        }
    }
}

/// A path with these parameters as its query.
pub(crate) fn with_query(
    path: &str,
    parameters: impl IntoIterator<Item = (&'static str, String)>,
) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        query.append_pair(name, &value);
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// Reads a text to search for from a query; `None` where it is empty. PostgreSQL takes no NUL.
pub(crate) fn search_text<'de, D>(deserializer: D) -> Result<Option<String>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?.replace('\0', "");
    let text = text.trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Reads the number of a row from a query; `None` where it is empty, as a form may send it.
pub(crate) fn row_id<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    match String::deserialize(deserializer)?.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_its_url() {
        let parameters = [("name", "a b&c=d/ü".to_owned())];
        assert_eq!(with_query("/x", parameters), "/x?name=a+b%26c%3Dd%2F%C3%BC");
        assert_eq!(with_query("/x", []), "/x");
    }

    #[test]
    fn the_row_that_is_not_shown_says_that_there_is_a_next_page() {
        let page = |rows| {
            let url = ListUrl::newest_first("/x").filter("q", Some("a"));
            let cursor = |row: &i64| vec![("before", row.to_string())];
            url.page::<i64, i64>(true, (1..=rows).collect(), cursor)
        };
        assert_eq!(page(50).links.next, None);
        let list = page(FETCHED_ROWS);
        assert_eq!(list.rows.len(), PAGE_SIZE);
        assert_eq!(list.links.next.as_deref(), Some("/x?q=a&before=50"));
        assert!(list.links.is_first_page());
    }
}

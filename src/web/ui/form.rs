//! The state of a form, from the page that first shows it to the page that shows what is wrong
//! with it.

use std::collections::HashMap;
use std::fmt::Display;

use askama::Template;
use axum::http::StatusCode;

use super::field::Field;
use crate::text::sentence;
use crate::web::error::WebError;

/// The result of a submitted form: a value, or the same form with its problems. `Err` is for errors
/// that the form cannot show.
pub(crate) type Submission<T> = Result<Result<T, FormState>, WebError>;

/// The values that a form shows, the problems found with them, and the status of the page that
/// shows both.
#[derive(Clone, Debug, Default)]
pub(crate) struct FormState {
    name: &'static str,
    values: HashMap<String, String>,
    problems: Vec<(&'static str, String)>,
    status: StatusCode,
}

impl FormState {
    /// A form without values and problems. Its name stands in front of the ids of its fields, so
    /// that two forms of one page share none; the only form of a page needs none.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// With the value of one field.
    #[must_use]
    pub(crate) fn with(mut self, field: &str, value: impl Into<String>) -> Self {
        self.values.insert(field.to_owned(), value.into());
        self
    }

    /// With these values, by field.
    #[must_use]
    pub(crate) fn with_all(mut self, values: HashMap<String, String>) -> Self {
        self.values = values;
        self
    }

    /// With another status than the problems give the page.
    #[must_use]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a problem with a field: an error, or a text that says what to do.
    pub(crate) fn reject(&mut self, field: &'static str, problem: impl Display) {
        self.problems.push((field, sentence(&problem)));
        self.status = StatusCode::UNPROCESSABLE_ENTITY;
    }

    /// With a problem, as [`Self::reject`] adds it.
    #[must_use]
    pub(crate) fn rejected(mut self, field: &'static str, problem: impl Display) -> Self {
        self.reject(field, problem);
        self
    }

    /// This form on a page with several: as it was submitted, if `submitted` is this form.
    #[must_use]
    pub(crate) fn or_submitted(self, submitted: &Self) -> Self {
        if submitted.name == self.name {
            submitted.clone()
        } else {
            self
        }
    }

    pub(crate) fn is_rejected(&self) -> bool {
        !self.problems.is_empty()
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn get(&self, field: &str) -> Option<&str> {
        self.values.get(field).map(String::as_str)
    }

    /// The value of a field; empty where it has none.
    pub(crate) fn value(&self, field: &str) -> &str {
        self.get(field).unwrap_or_default()
    }

    /// The values whose fields' names begin with `prefix`, in the order of those names.
    pub(crate) fn values_with_prefix(&self, prefix: &str) -> Vec<(String, String)> {
        let mut values: Vec<_> = self
            .values
            .iter()
            .filter(|(field, _)| field.starts_with(prefix))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect();
        values.sort();
        values
    }

    /// The first problem with a field.
    pub(crate) fn problem(&self, field: &str) -> Option<&str> {
        let mut problems = self.problems.iter();
        let (_, problem) = problems.find(|(name, _)| *name == field)?;
        Some(problem)
    }

    /// A field of this form, with its value, its problem, and an id of its own.
    pub(crate) fn field(&self, field: Field) -> Field {
        let name = field.name();
        let id = match self.name {
            "" => name.to_owned(),
            form => format!("{form}-{name}"),
        };
        let value = self.get(name).map(str::to_owned);
        let problem = self.problem(name).unwrap_or_default().to_owned();
        field.fill_in(id, value, problem)
    }

    /// The list of problems above the form, empty where there are none: `{{ form.summary() }}`.
    pub(crate) fn summary(&self) -> Summary<'_> {
        let link = |field: &str| match self.name {
            "" => format!("#{field}"),
            form => format!("#{form}-{field}"),
        };
        let problems = self.problems.iter();
        Summary {
            problems: problems
                .map(|(field, problem)| (link(field), problem.as_str()))
                .collect(),
        }
    }

    /// The title of the form's page. A screen reader reads it first, so it says that there are
    /// problems.
    pub(crate) fn title(&self, title: &str) -> String {
        if self.is_rejected() {
            format!("Error: {title}")
        } else {
            title.to_owned()
        }
    }
}

/// The problems of a form, each with a link to its field.
#[derive(Template)]
#[template(path = "parts/problems.html")]
pub(crate) struct Summary<'a> {
    problems: Vec<(String, &'a str)>,
}
impl askama::filters::HtmlSafe for Summary<'_> {}

/// Reads a length in milliseconds, with or without separators. `None` for an empty text.
///
/// # Errors
/// A sentence that says what to enter.
pub(crate) fn parse_milliseconds(text: &str) -> Result<Option<i64>, &'static str> {
    let digits = without_separators(text);
    if digits.is_empty() {
        return Ok(None);
    }
    let number = digits.parse().map(Some);
    number.map_err(|_| "Enter a whole number of milliseconds, or nothing.")
}

/// A number as people type it, `1,000` or `1 000`, without what they put between its digits.
pub(crate) fn without_separators(text: &str) -> String {
    text.replace([',', ' ', '\u{a0}'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_tied_to_its_input_and_no_value_becomes_markup() {
        let form = FormState::new("x")
            .with("label", "\"><script>")
            .rejected("label", "say <something> else");
        let html = form.field(Field::text("label", "Label")).to_string();
        assert!(html.contains(r#"id="x-label""#), "{html}");
        assert!(
            html.contains(r#"aria-invalid="true""#)
                && html.contains(r#"aria-describedby="x-label-error""#),
            "{html}"
        );
        assert!(
            html.contains(r#"id="x-label-error""#)
                && !html.contains("<something>")
                && !html.contains("<script>")
        );
        let summary = form.summary().to_string();
        assert!(summary.contains(r##"href="#x-label""##), "{summary}");
        assert!(
            summary.contains("Say &#60;something&#62; else."),
            "{summary}"
        );
        assert_eq!(form.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(FormState::default().summary().to_string().trim(), "");
    }

    #[test]
    fn a_password_is_never_shown_again() {
        let form = FormState::new("x").with("password", "hunter22");
        let field = Field::password("password", "Password", "current-password");
        assert!(!form.field(field).to_string().contains("hunter22"));
    }
}

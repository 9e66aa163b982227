//! Form fields as pages show them: label, input, hint and message belong together for everybody,
//! screen readers included.
//!
//! A [`Field`] writes itself: `{{ email }}` in a template. What is wrong with a form is in
//! [`Problems`], by field.

use askama::Template;

/// What is wrong with a form that came in, by field, in the order of the checks.
#[derive(Debug, Default, Clone)]
pub(crate) struct Problems {
    /// In front of each field's id, so that two forms of one page do not share ids.
    form: &'static str,
    found: Vec<(&'static str, String)>,
}

impl Problems {
    /// None yet, in the form whose field ids begin with `form` (`"token-"`).
    pub(crate) fn of(form: &'static str) -> Self {
        Self {
            form,
            found: Vec::new(),
        }
    }

    /// Adds one. The sentence says what to do.
    pub(crate) fn add(&mut self, field: &'static str, sentence: impl Into<String>) {
        self.found.push((field, sentence.into()));
    }

    /// One problem only.
    pub(crate) fn one(
        form: &'static str,
        field: &'static str,
        sentence: impl Into<String>,
    ) -> Self {
        let mut problems = Self::of(form);
        problems.add(field, sentence);
        problems
    }

    /// Whether the form is fine.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The message of one field.
    pub(crate) fn at(&self, field: &str) -> Option<&str> {
        self.found
            .iter()
            .find(|(name, _)| *name == field)
            .map(|(_, sentence)| sentence.as_str())
    }

    /// The list on top of the form, empty where nothing is wrong: `{{ problems.summary() }}`.
    pub(crate) fn summary(&self) -> Summary<'_> {
        Summary { problems: self }
    }

    /// Prefix for the page's title, which a screen reader reads first.
    pub(crate) fn title(&self, title: &str) -> String {
        if self.is_empty() {
            title.to_owned()
        } else {
            format!("Error: {title}")
        }
    }
}

/// The list of what is wrong, each linked to its field.
#[derive(Template)]
#[template(path = "parts/problems.html")]
pub(crate) struct Summary<'a> {
    problems: &'a Problems,
}
impl askama::filters::HtmlSafe for Summary<'_> {}

/// One choice of a select or of radio buttons.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// What is sent.
    pub(crate) value: String,
    /// What is read.
    pub(crate) label: String,
    /// More about it; empty: nothing.
    pub(crate) hint: String,
}

impl Choice {
    /// A choice without more about it.
    pub(crate) fn new(value: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            label: label.into(),
            hint: String::new(),
        }
    }

    /// With more about it, shown with radio buttons.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Input(&'static str),
    Select,
    Radio,
    Check,
    Lines,
}

/// One field of a form.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/field.html")]
pub(crate) struct Field {
    kind: Kind,
    id: String,
    name: &'static str,
    label: String,
    value: String,
    hint: String,
    error: String,
    optional: bool,
    /// Does not say that it is optional, where that goes without saying.
    unmarked: bool,
    /// Pairs of a name and a value, written as they are: never from a request.
    attributes: Vec<(&'static str, String)>,
    choices: Vec<Choice>,
}
impl askama::filters::HtmlSafe for Field {}

impl Field {
    fn new(kind: Kind, name: &'static str, label: impl Into<String>) -> Self {
        Self {
            kind,
            id: name.to_owned(),
            name,
            label: label.into(),
            value: String::new(),
            hint: String::new(),
            error: String::new(),
            optional: false,
            unmarked: false,
            attributes: Vec::new(),
            choices: Vec::new(),
        }
    }

    /// A line of text.
    pub(crate) fn text(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Input("text"), name, label)
    }

    /// What to look for.
    pub(crate) fn search(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Input("search"), name, label)
            .optional()
            .unmarked()
            .attribute("spellcheck", "false")
            .autocomplete("off")
    }

    /// An e-mail address.
    pub(crate) fn email(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Input("email"), name, label)
            .attribute("maxlength", "254")
            .attribute("spellcheck", "false")
            .attribute("autocapitalize", "none")
    }

    /// A password; what was typed never comes back. `autocomplete`: `current-password` or
    /// `new-password`.
    pub(crate) fn password(
        name: &'static str,
        label: impl Into<String>,
        autocomplete: &'static str,
    ) -> Self {
        Self::new(Kind::Input("password"), name, label).autocomplete(autocomplete)
    }

    /// A whole number. Its bounds are checked where the form is read: the browser's own message
    /// says less.
    pub(crate) fn number(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Input("text"), name, label)
            .attribute("inputmode", "numeric")
            .autocomplete("off")
    }

    /// One of several, in a list that opens.
    pub(crate) fn select(
        name: &'static str,
        label: impl Into<String>,
        choices: Vec<Choice>,
    ) -> Self {
        Self {
            choices,
            ..Self::new(Kind::Select, name, label)
        }
    }

    /// One of several, all to be seen.
    pub(crate) fn radio(
        name: &'static str,
        label: impl Into<String>,
        choices: Vec<Choice>,
    ) -> Self {
        Self {
            choices,
            ..Self::new(Kind::Radio, name, label)
        }
    }

    /// Yes or no; sends `yes` where it is ticked.
    pub(crate) fn check(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Check, name, label)
    }

    /// Several lines of text.
    pub(crate) fn lines(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Lines, name, label)
    }

    /// What it holds: what was typed, when the form comes back.
    #[must_use]
    pub(crate) fn value(mut self, value: impl Into<String>) -> Self {
        if self.kind != Kind::Input("password") {
            self.value = value.into();
        }
        self
    }

    /// What helps to fill it in.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// May be left empty.
    #[must_use]
    pub(crate) fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    fn unmarked(mut self) -> Self {
        self.unmarked = true;
        self
    }

    /// What browsers and password managers fill in.
    #[must_use]
    pub(crate) fn autocomplete(self, what: &'static str) -> Self {
        self.attribute("autocomplete", what)
    }

    /// Any other attribute of the input. `name` and `value` never come from a request.
    #[must_use]
    pub(crate) fn attribute(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// Belongs to this form: takes its message and its form's prefix.
    #[must_use]
    pub(crate) fn of(mut self, problems: &Problems) -> Self {
        self.id = format!("{}{}", problems.form, self.name);
        self.error = problems.at(self.name).unwrap_or_default().to_owned();
        self
    }

    fn described_by(&self) -> Option<String> {
        let mut ids = Vec::new();
        if !self.error.is_empty() {
            ids.push(format!("{}-error", self.id));
        }
        if !self.hint.is_empty() {
            ids.push(format!("{}-hint", self.id));
        }
        (!ids.is_empty()).then(|| ids.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tied_to_its_input_and_nothing_typed_becomes_markup() {
        let problems = Problems::one("x-", "label", "Say <something> else.");
        let html = Field::text("label", "Label")
            .value("\"><script>")
            .of(&problems)
            .to_string();
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
        assert!(
            problems
                .summary()
                .to_string()
                .contains(r##"href="#x-label""##)
        );
        assert_eq!(Problems::default().summary().to_string().trim(), "");
    }

    #[test]
    fn a_password_never_comes_back() {
        let html = Field::password("password", "Password", "current-password")
            .value("hunter22")
            .to_string();
        assert!(!html.contains("hunter22"));
    }
}

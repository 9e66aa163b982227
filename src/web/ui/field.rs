//! Form fields: label, input, hint and problem belong together, for screen readers too.
//!
//! A [`Field`] writes itself: `{{ email }}` in a template.

use askama::Template;

/// One choice of a select or of radio buttons.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    value: String,
    label: String,
    hint: String,
}

impl Choice {
    /// A choice without a hint.
    pub(crate) fn new(value: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            label: label.into(),
            hint: String::new(),
        }
    }

    /// With a hint, which only radio buttons show.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Input(&'static str),
    Select,
    Radio,
    Check,
    TextArea,
}

/// One field of a form.
#[derive(Clone, Debug, Template)]
#[template(path = "parts/field.html")]
pub(crate) struct Field {
    kind: Kind,
    id: String,
    name: &'static str,
    label: String,
    value: String,
    hint: String,
    problem: String,
    is_optional: bool,
    /// Whether the label of an optional field says so.
    is_marked_optional: bool,
    /// Names and values, written as they are: never from a request.
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
            problem: String::new(),
            is_optional: false,
            is_marked_optional: true,
            attributes: Vec::new(),
            choices: Vec::new(),
        }
    }

    /// One line of text.
    pub(crate) fn text(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Input("text"), name, label)
    }

    /// One line of text that browsers neither correct nor begin with a capital letter.
    pub(crate) fn identifier(name: &'static str, label: impl Into<String>) -> Self {
        Self::text(name, label)
            .attribute("spellcheck", "false")
            .attribute("autocapitalize", "none")
            .autocomplete("off")
    }

    /// A text to search for.
    pub(crate) fn search(name: &'static str, label: impl Into<String>) -> Self {
        let mut field = Self::new(Kind::Input("search"), name, label)
            .optional()
            .attribute("spellcheck", "false")
            .autocomplete("off");
        field.is_marked_optional = false;
        field
    }

    /// An e-mail address.
    pub(crate) fn email(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Input("email"), name, label)
            .attribute("maxlength", "254")
            .attribute("spellcheck", "false")
            .attribute("autocapitalize", "none")
    }

    /// A password, whose value is never shown. `autocomplete` is `current-password` or
    /// `new-password`.
    pub(crate) fn password(
        name: &'static str,
        label: impl Into<String>,
        autocomplete: &'static str,
    ) -> Self {
        Self::new(Kind::Input("password"), name, label).autocomplete(autocomplete)
    }

    /// A whole number. The handler checks its bounds: a browser's own message says less.
    pub(crate) fn number(name: &'static str, label: impl Into<String>) -> Self {
        Self::text(name, label)
            .attribute("inputmode", "numeric")
            .autocomplete("off")
    }

    /// One of several choices, in a list that opens.
    pub(crate) fn select(
        name: &'static str,
        label: impl Into<String>,
        choices: impl IntoIterator<Item = Choice>,
    ) -> Self {
        Self {
            choices: choices.into_iter().collect(),
            ..Self::new(Kind::Select, name, label)
        }
    }

    /// One of several choices, all of them shown.
    pub(crate) fn radio(
        name: &'static str,
        label: impl Into<String>,
        choices: impl IntoIterator<Item = Choice>,
    ) -> Self {
        Self {
            choices: choices.into_iter().collect(),
            ..Self::new(Kind::Radio, name, label)
        }
    }

    /// A box to tick, which then sends `yes`.
    pub(crate) fn check(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::Check, name, label)
    }

    /// Several lines of text.
    pub(crate) fn text_area(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(Kind::TextArea, name, label)
    }

    /// The reason for an act, as the audit log takes it.
    pub(crate) fn reason(hint: &'static str) -> Self {
        Self::text_area("reason", "Reason")
            .hint(hint)
            .attribute("maxlength", "500")
    }

    /// A sentence that helps to fill it in.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// May be left empty.
    #[must_use]
    pub(crate) fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    /// The kind of value that browsers and password managers fill in: a token of the attribute
    /// `autocomplete`.
    #[must_use]
    pub(crate) fn autocomplete(self, token: &'static str) -> Self {
        self.attribute("autocomplete", token)
    }

    /// Any other attribute of the input. Its value is never from a request.
    #[must_use]
    pub(crate) fn attribute(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// With the state of its form. An empty problem is none; a password takes no value.
    pub(super) fn fill_in(mut self, id: String, value: Option<String>, problem: String) -> Self {
        self.id = id;
        self.problem = problem;
        if let Some(value) = value
            && self.kind != Kind::Input("password")
        {
            self.value = value;
        }
        self
    }

    /// The ids of the elements that describe the input.
    fn described_by(&self) -> Option<String> {
        let mut ids = Vec::new();
        if !self.problem.is_empty() {
            ids.push(format!("{}-error", self.id));
        }
        if !self.hint.is_empty() {
            ids.push(format!("{}-hint", self.id));
        }
        (!ids.is_empty()).then(|| ids.join(" "))
    }
}

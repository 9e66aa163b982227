//! Code to copy: a dark block with a caption and, where script runs, a copy button.

use std::borrow::Cow;

use askama::Template;

/// A block of code. Writes itself: `{{ snippet }}` in a template.
#[derive(Debug, Clone, Template)]
#[template(path = "parts/snippet.html")]
pub(crate) struct Snippet {
    id: Cow<'static, str>,
    caption: String,
    code: String,
    wrap: bool,
}
impl askama::filters::HtmlSafe for Snippet {}

impl Snippet {
    /// `id` is the id of the block, unique on its page.
    pub(crate) fn new(
        id: impl Into<Cow<'static, str>>,
        caption: impl Into<String>,
        code: impl Into<String>,
    ) -> Self {
        Self {
            id: id.into(),
            caption: caption.into(),
            code: code.into(),
            wrap: false,
        }
    }

    /// Long lines wrap instead of scrolling.
    #[must_use]
    pub(crate) fn wrapped(mut self) -> Self {
        self.wrap = true;
        self
    }
}

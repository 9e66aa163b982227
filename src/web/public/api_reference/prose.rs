//! The texts of the document, which mark code with backticks.

/// A text in pieces, each with whether it is code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Prose(pub(crate) Vec<(bool, String)>);

impl Prose {
    /// Reads Markdown as far as the document uses it: code between backticks, lines that are
    /// wrapped.
    pub(super) fn new(text: &str) -> Self {
        let words: Vec<_> = text.split_whitespace().collect();
        let pieces = words.join(" ");
        let pieces = pieces.split('`').enumerate();
        Self(
            pieces
                .map(|(place, piece)| (place % 2 == 1, piece.to_owned()))
                .filter(|(_, piece)| !piece.is_empty())
                .collect(),
        )
    }

    /// The paragraphs of a text.
    pub(super) fn paragraphs(text: &str) -> Vec<Self> {
        text.split("\n\n").map(Self::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Prose;

    #[test]
    fn backticks_mark_code() {
        let pieces = [(true, "true"), (false, ": you hold\nit, "), (true, "false")];
        let text: String = pieces
            .iter()
            .map(|(is_code, piece)| match is_code {
                true => format!("`{piece}`"),
                false => (*piece).to_owned(),
            })
            .collect();
        assert_eq!(
            Prose::new(&text).0,
            [
                (true, "true".to_owned()),
                (false, ": you hold it, ".to_owned()),
                (true, "false".to_owned())
            ]
        );
        assert_eq!(Prose::paragraphs("One.\n\nTwo.").len(), 2);
    }
}

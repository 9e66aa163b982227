//! Texts for people that both adapters write.

use std::fmt::Display;

/// The text of an error as a sentence: with a capital letter in front and a full stop behind.
pub fn sentence(error: &impl Display) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    let first = characters.next().map(char::to_uppercase);
    let rest = characters.as_str().trim_end_matches('.');
    first
        .into_iter()
        .flatten()
        .chain(rest.chars())
        .chain(['.'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_become_sentences() {
        assert_eq!(sentence(&"choose another"), "Choose another.");
        assert_eq!(sentence(&"One already."), "One already.");
    }
}

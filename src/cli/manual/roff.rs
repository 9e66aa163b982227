//! The language of manual pages (man(7)), for the sections that clap_mangen does not have.

use std::fmt::Write;

const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '";

/// A page in the making.
#[derive(Debug, Default)]
pub(super) struct Page(Vec<u8>);

impl Page {
    /// For text that is roff already.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.0);
        // clap_mangen's definition of an apostrophe, which it writes before each of its sections.
        let definition = format!("{APOSTROPHE}\n");
        let text = text.replace(&definition, "");
        let uses_it = text.contains("\\*(Aq");
        format!("{}{text}", if uses_it { &definition } else { "" }).into_bytes()
    }

    /// The name of the page, of section 1, and the version of the program.
    pub(super) fn title(&mut self, name: &str, version: &str) {
        self.line(&format!(
            ".TH {} 1 \"\" \"lockable {}\" \"Lockable\"",
            escape(name),
            escape(version)
        ));
    }

    /// A heading.
    pub(super) fn section(&mut self, heading: &str) {
        self.line(&format!(".SH \"{}\"", escape(heading)));
    }

    /// How a command is called, as its `--help` has it.
    pub(super) fn synopsis(&mut self, usage: &str) {
        for line in usage.lines() {
            self.text(line.trim_start_matches("Usage:").trim());
        }
    }

    /// Paragraphs, which empty lines divide. One whose lines are indented is code.
    pub(super) fn paragraphs(&mut self, text: &str) {
        for paragraph in text.split("\n\n") {
            if paragraph.trim().is_empty() {
                continue;
            }
            if paragraph.lines().all(|line| line.starts_with("    ")) {
                let lines: Vec<&str> = paragraph.lines().map(str::trim).collect();
                self.code(&lines.join("\n"));
                continue;
            }
            self.line(".PP");
            paragraph.lines().for_each(|line| self.text(line.trim()));
        }
    }

    /// Lines that are shown as they are.
    pub(super) fn code(&mut self, lines: &str) {
        self.line(".PP\n.RS 4\n.nf");
        lines.lines().for_each(|line| self.text(line));
        self.line(".fi\n.RE");
    }

    /// A term and what it means.
    pub(super) fn item(&mut self, term: &str, meaning: &str) {
        self.line(&format!(".TP\n\\fB{}\\fR", escape(term)));
        self.text(meaning);
    }

    /// A table of exit codes, as `--help` has it: numbers and what they mean, behind a sentence.
    pub(super) fn exit_codes(&mut self, table: &str) {
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_once("  ") {
                Some((code, meaning)) if code.parse::<u8>().is_ok() => self.item(code, meaning),
                _ => self.text(line),
            }
        }
    }

    /// References to other pages.
    pub(super) fn references(&mut self, pages: &[&str]) {
        let mut text = String::new();
        for (number, page) in pages.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}\\fB{}\\fR(1)", escape(page));
        }
        self.line(&text);
    }

    /// A line of text, which is no request whatever it begins with.
    fn text(&mut self, text: &str) {
        let guard = if text.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        self.line(&format!("{guard}{}", escape(text)));
    }

    fn line(&mut self, roff: &str) {
        self.0.extend_from_slice(roff.as_bytes());
        self.0.push(b'\n');
    }
}

/// Text as it is: roff writes some of ASCII's characters as others, which nobody could copy.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '"' => escaped.push_str("\\(dq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Page)) -> String {
        let mut page = Page::default();
        write(&mut page);
        String::from_utf8(page.into_bytes()).unwrap()
    }

    #[test]
    fn text_is_never_a_request() {
        let paragraphs = ".SH\n'x' -n\n\n    echo \"$x\" \\\n    done";
        assert_eq!(
            text(|page| page.paragraphs(paragraphs)),
            ".PP\n\\&.SH\n\\&\\(aqx\\(aq \\-n\n.PP\n.RS 4\n.nf\necho \\(dq$x\\(dq \\e\ndone\n.fi\n\
             .RE\n"
        );
    }

    #[test]
    fn exit_codes_are_items() {
        let table = " the command's, or\n    2  called wrongly\n  101  an error";
        assert_eq!(
            text(|page| page.exit_codes(table)),
            "the command\\(aqs, or\n.TP\n\\fB2\\fR\ncalled wrongly\n.TP\n\\fB101\\fR\nan error\n"
        );
    }
}

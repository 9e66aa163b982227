//! The paths in a source: those of its `use` declarations, one by one, and all others.

use super::source::identifier;

/// A path as it stands in the code.
pub(super) struct CodePath {
    /// `crate`, `super`, `self`, a module, a crate or an item first. A glob ends with `*`.
    pub(super) segments: Vec<String>,
    /// The number of inner modules (`mod tests { … }`) that it stands in.
    pub(super) inner_depth: usize,
    /// For a path of a `use` declaration.
    pub(super) import: Option<Import>,
}

pub(super) struct Import {
    /// The name that the code uses it by.
    pub(super) name: String,
    /// True for `pub use` of any visibility.
    pub(super) is_exported: bool,
}

/// All paths in code whose comments and strings are blank.
pub(super) fn paths(code: &str) -> Vec<CodePath> {
    let inner = inner_modules(code);
    let depth_at = |at: usize| inner.iter().filter(|module| module.contains(&at)).count();
    let uses = use_declarations(code);
    let mut found = Vec::new();
    for declaration in &uses {
        let mut imported = Vec::new();
        expand(declaration.tree, &[], &mut imported);
        for (segments, name) in imported {
            found.push(CodePath {
                segments,
                inner_depth: depth_at(declaration.at),
                import: Some(Import {
                    name,
                    is_exported: declaration.is_exported,
                }),
            });
        }
    }
    for (at, _) in code.match_indices("::") {
        let first = word_before(code, at);
        let start = at - first.len();
        let before = code[..start].trim_end();
        let is_whole = !first.is_empty() && !before.ends_with("::") && !before.ends_with('$');
        let in_use = uses
            .iter()
            .any(|declaration| declaration.range().contains(&at));
        if !is_whole || in_use {
            continue;
        }
        let mut segments = vec![first.to_owned()];
        let mut rest = &code[at..];
        while let Some(next) = rest.strip_prefix("::") {
            let segment = identifier(next);
            if segment.is_empty() {
                break;
            }
            rest = &next[segment.len()..];
            segments.push(segment);
        }
        found.push(CodePath {
            segments,
            inner_depth: depth_at(at),
            import: None,
        });
    }
    found
}

/// True if code outside of `use` declarations uses a name by itself. A function's name counts if it
/// is called, or if a path begins with it.
pub(super) fn uses_by_name(code: &str, name: &str) -> bool {
    let uses = use_declarations(code);
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].trim_end();
        let after = code[at + name.len()..].trim_start();
        let is_word =
            word_before(code, at).is_empty() && identifier(after_of(code, at, name)).is_empty();
        let is_path_part = before.ends_with("::") || before.ends_with('.');
        let is_declared = ["fn", "mod", "struct", "enum", "let"]
            .iter()
            .any(|keyword| word_before(before, before.len()) == *keyword);
        let is_type = name.starts_with(char::is_uppercase);
        is_word
            && !is_path_part
            && !is_declared
            && (is_type || after.starts_with('(') || after.starts_with("::"))
            && !uses
                .iter()
                .any(|declaration| declaration.range().contains(&at))
    })
}

fn after_of<'a>(code: &'a str, at: usize, name: &str) -> &'a str {
    &code[at + name.len()..]
}

fn word_before(code: &str, at: usize) -> &str {
    let word = code[..at]
        .rfind(|character: char| !character.is_alphanumeric() && character != '_')
        .map_or(0, |end| {
            end + code[end..].chars().next().map_or(1, char::len_utf8)
        });
    &code[word..at]
}

/// The bodies of modules that stand in a file.
fn inner_modules(code: &str) -> Vec<std::ops::Range<usize>> {
    code.match_indices("mod ")
        .filter(|(at, _)| word_before(code, *at).is_empty())
        .filter_map(|(at, _)| {
            let name = identifier(&code[at + 4..]);
            let open = at
                + 4
                + name.len()
                + code[at + 4 + name.len()..].find(|c: char| !c.is_whitespace())?;
            (code[open..].starts_with('{')).then(|| open..closing_brace(code, open))
        })
        .collect()
}

fn closing_brace(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, character) in code[open..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at;
        }
    }
    code.len()
}

struct UseDeclaration<'a> {
    at: usize,
    tree: &'a str,
    is_exported: bool,
}

impl UseDeclaration<'_> {
    fn range(&self) -> std::ops::Range<usize> {
        self.at..self.at + "use ".len() + self.tree.len()
    }
}

fn use_declarations(code: &str) -> Vec<UseDeclaration<'_>> {
    code.match_indices("use ")
        .filter(|(at, _)| word_before(code, *at).is_empty())
        .filter_map(|(at, _)| {
            let before = code[..at].trim_end();
            let is_exported = before.ends_with("pub") || before.ends_with(')');
            let begins = is_exported || before.is_empty() || before.ends_with([';', '}', '{', ']']);
            let tree = &code[at + "use ".len()..];
            let tree = &tree[..tree.find(';')?];
            begins.then_some(UseDeclaration {
                at,
                tree,
                is_exported,
            })
        })
        .collect()
}

/// The paths of a use tree, each with the name that it is imported by.
fn expand(tree: &str, before: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim().trim_start_matches("::");
    if let Some(group) = tree.strip_prefix('{') {
        let group = group.strip_suffix('}').unwrap_or(group);
        for part in split_outside_braces(group) {
            expand(part, before, found);
        }
        return;
    }
    let segment = if tree.starts_with('*') {
        "*".to_owned()
    } else {
        identifier(tree)
    };
    if segment.is_empty() {
        return;
    }
    let rest = &tree[segment.len()..];
    let mut segments = before.to_vec();
    if segment != "self" || before.is_empty() {
        segments.push(segment);
    }
    if let Some(rest) = rest.strip_prefix("::") {
        expand(rest, &segments, found);
    } else {
        let alias = rest
            .trim()
            .strip_prefix("as ")
            .map(|alias| identifier(alias.trim()));
        let name = alias.unwrap_or_else(|| segments.last().cloned().unwrap_or_default());
        found.push((segments, name));
    }
}

fn split_outside_braces(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

//! The tree of modules, which resolves a path to a file.

use std::collections::BTreeMap;

use super::paths::{CodePath, paths};
use super::source::{Source, blank};

/// A file as a module.
pub(super) struct Module<'a> {
    pub(super) source: &'a Source,
    /// Its code with comments and strings blanked.
    pub(super) code: String,
    pub(super) paths: Vec<CodePath>,
}

/// All files by the path of their module, `[]` for the root.
pub(super) struct Modules<'a>(BTreeMap<Vec<String>, Module<'a>>);

impl<'a> Modules<'a> {
    pub(super) fn read(sources: &'a [Source]) -> Self {
        let rust = sources.iter().filter(|source| source.is_rust());
        let modules = rust.map(|source| {
            let code = blank(&source.text, true);
            let module = Module {
                source,
                paths: paths(&code),
                code,
            };
            (path_of(source), module)
        });
        Self(modules.collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<String>, &Module<'a>)> {
        self.0.iter()
    }

    /// The path from the root; `None` for one that stays in the file or leaves the crate.
    pub(super) fn absolute(&self, from: &[String], path: &CodePath) -> Option<Vec<String>> {
        let segments = &path.segments;
        let supers = segments
            .iter()
            .take_while(|segment| *segment == "super")
            .count();
        let (base, rest) = match segments[0].as_str() {
            "crate" | "lockable" => (&from[..0], &segments[1..]),
            "super" if supers > path.inner_depth => {
                let up = supers - path.inner_depth;
                (&from[..from.len().checked_sub(up)?], &segments[supers..])
            }
            "super" => return None,
            "self" if path.inner_depth == 0 => (from, &segments[1..]),
            first if path.inner_depth == 0 && self.is_child(from, first) => (from, &segments[..]),
            first => {
                let import = self.import(from, first, path.inner_depth)?;
                if std::ptr::eq(import, path) {
                    return None;
                }
                let imported = self.absolute(from, import)?;
                return Some([&imported, &segments[1..]].concat());
            }
        };
        Some([base, rest].concat())
    }

    /// The module that defines the item of an absolute path: re-exports are followed. `None` for a
    /// path that ends at a module, which uses no item yet, or leaves the crate.
    pub(super) fn home(&self, absolute: &[String]) -> Option<Vec<String>> {
        self.follow(absolute, 10)
    }

    fn follow(&self, absolute: &[String], steps: usize) -> Option<Vec<String>> {
        let length = (1..=absolute.len())
            .rev()
            .find(|length| self.0.contains_key(&absolute[..*length]))?;
        let (module, rest) = absolute.split_at(length);
        let (name, inside) = rest.split_first()?;
        match self.import(module, name, 0) {
            Some(import) if steps > 0 => {
                let imported = self.absolute(module, import)?;
                self.follow(&[&imported, inside].concat(), steps - 1)
            }
            _ => Some(module.to_vec()),
        }
    }

    fn import(&self, module: &[String], name: &str, inner_depth: usize) -> Option<&CodePath> {
        self.0.get(module)?.paths.iter().find(|path| {
            path.inner_depth == inner_depth
                && path
                    .import
                    .as_ref()
                    .is_some_and(|import| import.name == name)
                && path.segments.len() > 1
        })
    }

    fn is_child(&self, module: &[String], name: &str) -> bool {
        self.0.contains_key(&[module, &[name.to_owned()]].concat())
    }
}

/// `locks/engine/mod.rs` and `locks/engine.rs` are both `locks::engine`.
fn path_of(source: &Source) -> Vec<String> {
    let mut path: Vec<String> = source
        .path
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if path.last().is_some_and(|last| last == "mod") {
        path.pop();
    }
    if path == ["lib"] {
        path.clear();
    }
    path
}

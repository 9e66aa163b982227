//! No circles between the files of one folder.
//!
//! A folder's nodes are its files and its folders, each folder as one. A file that uses an item of
//! its own `mod.rs` leads there, unless `mod.rs` only passes the item on; `mod.rs` leads to a file
//! that it uses beyond `mod` and `pub use`. Circles of top-level modules are checked by `imports`.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::Modules;
use super::paths::uses_by_name;
use super::source::Source;

/// The edges of each folder, and a file that shows each.
type Folders = BTreeMap<String, BTreeMap<(String, String), String>>;

/// Folders that still have circles. No other may get one, and one without goes off the list.
pub(super) const STILL_CIRCULAR: &[&str] = &[];

/// The violations, one line for each folder.
pub(super) fn check(sources: &[Source], still_circular: &[&str]) -> Vec<String> {
    let folders = folders(&Modules::read(sources));
    let circles: BTreeMap<&str, String> = folders
        .iter()
        .filter_map(|(folder, edges)| Some((folder.as_str(), shown(&circle(edges)?, edges))))
        .collect();
    let new = circles
        .iter()
        .filter(|(folder, _)| !still_circular.contains(folder))
        .map(|(folder, circle)| format!("a circle in {folder}: {circle}"));
    let ended = still_circular
        .iter()
        .filter(|folder| !circles.contains_key(*folder))
        .map(|folder| format!("{folder} has no circle any more: take it off STILL_CIRCULAR"));
    new.chain(ended).collect()
}

/// The nodes of a circle, and the files that show it.
fn shown(circle: &[String], edges: &BTreeMap<(String, String), String>) -> String {
    let files: BTreeSet<&str> = circle
        .windows(2)
        .filter_map(|pair| edges.get(&(pair[0].clone(), pair[1].clone())))
        .map(String::as_str)
        .collect();
    let files: Vec<&str> = files.into_iter().collect();
    format!("{} ({})", circle.join(" -> "), files.join(", "))
}

fn folders(modules: &Modules<'_>) -> Folders {
    let mut folders = Folders::new();
    for (from, module) in modules.iter() {
        for path in &module.paths {
            let Some(target) = modules
                .absolute(from, path)
                .and_then(|absolute| modules.home(&absolute))
            else {
                continue;
            };
            // A re-export that the module itself does not use.
            let is_passed_on = path.import.as_ref().is_some_and(|import| {
                import.is_exported && !uses_by_name(&module.code, &import.name)
            });
            if !is_passed_on && let Some((folder, edge)) = edge(from, &target) {
                folders
                    .entry(folder)
                    .or_default()
                    .entry(edge)
                    .or_insert_with(|| module.source.path.display().to_string());
            }
        }
    }
    folders
}

/// The deepest folder that has both modules, and their nodes in it.
fn edge(from: &[String], to: &[String]) -> Option<(String, (String, String))> {
    let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    let node = |path: &[String]| path.get(common).map_or("mod.rs", String::as_str).to_owned();
    (common > 0 && from != to).then(|| (from[..common].join("/"), (node(from), node(to))))
}

/// A circle along these edges, if there is one.
pub(super) fn circle(edges: &BTreeMap<(String, String), String>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        edges: &BTreeMap<(String, String), String>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(start) = path.iter().position(|node| node == at) {
            path.drain(..start);
            path.push(at.to_owned());
            return true;
        }
        if !done.insert(at.to_owned()) {
            return false;
        }
        path.push(at.to_owned());
        let found = edges
            .keys()
            .filter(|(from, _)| from == at)
            .any(|(_, to)| visit(to, edges, path, done));
        if !found {
            path.pop();
        }
        found
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|(from, _)| {
        let mut path = Vec::new();
        visit(from, edges, &mut path, &mut done).then_some(path)
    })
}

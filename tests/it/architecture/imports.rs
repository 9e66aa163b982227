//! The direction of dependencies between the top-level modules.

use std::collections::BTreeMap;

use super::circles::circle;
use super::modules::Modules;
use super::source::{Source, blank};

/// Every top-level module has its place here. A module may use those of lower storeys, and no
/// others. A new one belongs on the lowest storey that it can stand on.
const STOREYS: &[&[&str]] = &[
    &["id", "secret", "config", "signals", "text"],
    &["db", "outages"],
    &[
        "accounts",
        "activity",
        "audit",
        "events",
        "locks",
        "namespaces",
        "plans",
        "tokens",
    ],
    &["mail"],
    &["app"],
    &["transport"],
    &["api", "web", "jobs"],
    &["server"],
    &["cli"],
    &["main"],
];
const NOUNS: &[&str] = STOREYS[2];
/// Storeys whose modules may use each other, as long as there is no circle.
const MUTUAL: &[usize] = &[0, 1, 2];
/// The crates of HTTP and pages, which nothing below the adapters may know.
const TRANSPORT_CRATES: &[&str] = &[
    "axum",
    "axum_extra",
    "axum_server",
    "askama",
    "tower",
    "tower_http",
    "tower_sessions",
    "tower_sessions_core",
    "http",
    "hyper",
];
const BELOW_TRANSPORT: &[&str] = &["id", "secret", "config", "signals", "db", "outages", "mail"];

/// Imports that point the wrong way, circles of modules, and crates that a module must not know.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let edges = edges(&Modules::read(sources));
    for ((from, to), file) in &edges {
        match (storey(from), storey(to)) {
            (Some(above), Some(below))
                if above > below || (above == below && MUTUAL.contains(&above)) => {}
            (Some(_), Some(_)) => wrong.push(format!("{file}: `{from}` must not use `{to}`")),
            (None, _) => wrong.push(format!("{file}: give `{from}` its place in STOREYS")),
            (_, None) => wrong.push(format!("{file}: give `{to}` its place in STOREYS")),
        }
    }
    if let Some(circle) = circle(&edges) {
        wrong.push(format!("a circle: {}", circle.join(" -> ")));
    }
    for source in sources.iter().filter(|source| source.is_rust()) {
        let module = source.module();
        let file = source.path.display();
        let code = blank(&source.text, true);
        if NOUNS.contains(&module.as_str()) || BELOW_TRANSPORT.contains(&module.as_str()) {
            for name in TRANSPORT_CRATES
                .iter()
                .filter(|name| uses_crate(&code, name))
            {
                wrong.push(format!("{file}: `{module}` must not know `{name}`"));
            }
        }
    }
    wrong
}

fn storey(module: &str) -> Option<usize> {
    STOREYS.iter().position(|modules| modules.contains(&module))
}

/// The uses of one top-level module by another, and a file that shows each. The root (`lib.rs`)
/// only declares.
fn edges(modules: &Modules<'_>) -> BTreeMap<(String, String), String> {
    let mut edges = BTreeMap::new();
    for (from, module) in modules.iter().filter(|(from, _)| !from.is_empty()) {
        for path in &module.paths {
            let absolute = modules.absolute(from, path);
            let Some(target) = absolute.and_then(|absolute| absolute.first().cloned()) else {
                continue;
            };
            if target != from[0] && target.starts_with(char::is_lowercase) {
                edges
                    .entry((from[0].clone(), target))
                    .or_insert_with(|| module.source.path.display().to_string());
            }
        }
    }
    edges
}

/// True if the first module uses the second.
pub(super) fn uses_module(sources: &[Source], from: &str, to: &str) -> bool {
    edges(&Modules::read(sources)).contains_key(&(from.to_owned(), to.to_owned()))
}

fn uses_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let outside =
            !before.is_some_and(|before| before.is_alphanumeric() || "_:.".contains(before));
        let after = &code[at + name.len()..];
        outside
            && (after.starts_with("::") || (code[..at].ends_with("use ") && after.starts_with(';')))
    })
}

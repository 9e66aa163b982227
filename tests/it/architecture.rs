//! Holds the direction of dependencies (ARCHITECTURE.md): read from the sources, so that nothing
//! drifts unseen.
//!
//! The reading is by text: comments and the contents of strings are blanked, then every path that
//! starts at `crate::`, `super::` or an external crate is resolved to a top-level module or a crate
//! name. Test modules count as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every top-level module has its place here; a module may use what stands on a lower storey, and
/// nothing else. A new one belongs on the lowest storey that it can stand on.
const STOREYS: &[&[&str]] = &[
    &["id", "secret", "config"],
    &["db", "outages"],
    &[
        "accounts",
        "audit",
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
/// What carries requests and pages, and what nothing below the adapters may know.
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
const BELOW_TRANSPORT: &[&str] = &["id", "secret", "config", "db", "outages", "mail"];

struct Source {
    path: PathBuf,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<Source>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source {
                    text: std::fs::read_to_string(&path).unwrap(),
                    path,
                });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    for source in &mut found {
        source.path = source.path.strip_prefix(&root).unwrap().to_owned();
    }
    found
}

#[test]
fn the_direction_of_dependencies_holds() {
    let wrong = violations(&sources());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reading_finds_what_is_there() {
    let found = sources();
    assert!(
        found.len() > 10
            && found
                .iter()
                .any(|source| source.path == Path::new("server.rs"))
    );
    let edges = edges(&found);
    assert!(
        edges.contains_key(&("cli".into(), "server".into())),
        "{edges:?}"
    );
}

/// Everything that is wrong, one line each.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let edges = edges(sources);
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
    for source in sources {
        let module = module_of(&source.path);
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
        wrong.extend(statements(source, &module));
    }
    let mut names = BTreeMap::new();
    for source in sources {
        for name in statement_names(&source.text) {
            if let Some(other) = names.insert(name.clone(), &source.path) {
                wrong.push(format!(
                    "{}: `{name}` names a statement of {} too",
                    source.path.display(),
                    other.display()
                ));
            }
        }
    }
    wrong
}

fn storey(module: &str) -> Option<usize> {
    STOREYS.iter().position(|modules| modules.contains(&module))
}

/// The top-level module that a file belongs to.
fn module_of(path: &Path) -> String {
    let first = path
        .components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Who uses whom, and a file that shows it. The root (`lib.rs`) only declares.
fn edges(sources: &[Source]) -> BTreeMap<(String, String), String> {
    let mut edges = BTreeMap::new();
    for source in sources {
        let module = module_of(&source.path);
        if module == "lib" {
            continue;
        }
        let code = blank(&source.text, true);
        let mut used = BTreeSet::new();
        for root in ["crate", "lockable"] {
            used.extend(heads_after(&code, root));
        }
        // `super` of a top-level file, or of a folder's mod.rs, is the root; deeper ones stay
        // inside the module.
        let depth = source.path.components().count() - usize::from(source.path.ends_with("mod.rs"));
        if depth == 1 {
            used.extend(supers_outside_inner_modules(&code));
        }
        for target in used
            .into_iter()
            .filter(|target| *target != module && target.starts_with(char::is_lowercase))
        {
            edges
                .entry((module.clone(), target))
                .or_insert_with(|| source.path.display().to_string());
        }
    }
    edges
}

/// The first segments of all paths `root::…`, of groups `root::{a, b::c}` too.
fn heads_after(code: &str, root: &str) -> Vec<String> {
    let mut heads = Vec::new();
    for (at, _) in code.match_indices(&format!("{root}::")) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|before| {
            before.is_alphanumeric() || before == '_' || before == ':' || before == '$'
        }) {
            continue;
        }
        let rest = &code[at + root.len() + 2..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item = String::new();
            for character in group.chars() {
                match character {
                    '}' if depth == 0 => break,
                    ',' if depth == 0 => heads.push(std::mem::take(&mut item)),
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ if depth == 0 => item.push(character),
                    _ => {}
                }
            }
            heads.push(item);
        } else {
            heads.push(rest.to_owned());
        }
    }
    heads
        .iter()
        .map(|head| identifier(head.trim()))
        .filter(|head| !head.is_empty())
        .collect()
}

/// In a top-level file, `super::` inside an inner module (a test module, at the file's end) means
/// the file itself.
fn supers_outside_inner_modules(code: &str) -> Vec<String> {
    let outer = code.find("\nmod tests {").map_or(code, |at| &code[..at]);
    heads_after(outer, "super")
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
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

/// A circle among the modules, if there is one.
fn circle(edges: &BTreeMap<(String, String), String>) -> Option<Vec<String>> {
    fn visit(
        at: &str,
        edges: &BTreeMap<(String, String), String>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(start) = path.iter().position(|module| module == at) {
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

/// Where SQL may stand, and that every checked statement names itself.
fn statements(source: &Source, module: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let file = source.path.display();
    let code = blank(&source.text, true);
    let is_store = ["store.rs", "statements.rs", "sweeper.rs"]
        .iter()
        .any(|name| source.path.ends_with(name));
    let may_hold_sql = is_store || module == "db" || module == "outages";
    for name in [
        "query",
        "query_as",
        "query_scalar",
        "raw_sql",
        "query_file",
        "query_with",
    ] {
        for (at, _) in code.match_indices(name) {
            let before = code[..at].chars().next_back();
            let after = &code[at + name.len()..];
            let is_macro = after.starts_with("!(");
            let is_call = after.starts_with('(') || after.starts_with("::<");
            let is_sql = code[..at].ends_with("sqlx::")
                || (is_macro && before.is_none_or(char::is_whitespace));
            if !is_sql {
                continue;
            }
            if (is_macro || is_call) && !may_hold_sql {
                wrong.push(format!(
                    "{file}: SQL stands in a store.rs, in db or in outages"
                ));
            }
            if is_call && module != "db" {
                wrong.push(format!(
                    "{file}: `{name}` without `!` is not checked when compiling"
                ));
            }
            if is_macro
                && first_literal(&source.text[at..]).is_none_or(|sql| !is_named(sql, &source.path))
            {
                let line = source.text[..at].lines().count();
                wrong.push(format!(
                    "{file}:{line}: a statement starts with its name, `/* {module}.what */`"
                ));
            }
        }
    }
    wrong
}

/// The names of the checked statements in a file.
fn statement_names(text: &str) -> Vec<String> {
    let code = blank(text, true);
    let starts = ["query!(", "query_as!(", "query_scalar!("]
        .into_iter()
        .flat_map(|start| {
            code.match_indices(start)
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        });
    let starts: BTreeSet<usize> = starts.collect();
    let literals = starts
        .into_iter()
        .filter_map(|at| first_literal(&text[at..]));
    literals
        .filter_map(|sql| {
            Some(
                sql.trim_start()
                    .strip_prefix("/* ")?
                    .split_once(" */")?
                    .0
                    .to_owned(),
            )
        })
        .collect()
}

/// The contents of the first string literal, plain or raw.
fn first_literal(text: &str) -> Option<&str> {
    let open = text.find('"')?;
    let hashes = text[..open]
        .chars()
        .rev()
        .take_while(|character| *character == '#')
        .count();
    let close = if hashes > 0 {
        format!("\"{}", "#".repeat(hashes))
    } else {
        "\"".to_owned()
    };
    let body = &text[open + 1..];
    Some(&body[..body.find(&close)?])
}

/// Starts with `/* noun.what */`, where the noun is the file's or one of its folders'.
fn is_named(sql: &str, path: &Path) -> bool {
    let Some((name, _)) = sql
        .trim_start()
        .strip_prefix("/* ")
        .and_then(|rest| rest.split_once(" */"))
    else {
        return false;
    };
    let Some((noun, what)) = name.split_once('.') else {
        return false;
    };
    let place = path.with_extension("");
    let plain = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_'
    };
    place.components().any(|part| part.as_os_str() == noun)
        && !what.is_empty()
        && what.chars().all(plain)
}

/// The same text, of the same length, with comments blanked, and strings too if asked.
fn blank(text: &str, strings: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    let erase = |out: &mut Vec<u8>, from: usize, to: usize| {
        for byte in &mut out[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let end = if rest.starts_with(b"//") {
            let end = at
                + rest
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .unwrap_or(rest.len());
            erase(&mut out, at, end);
            end
        } else if rest.starts_with(b"/*") {
            let end = at + find(rest, b"*/").map_or(rest.len(), |length| length + 2);
            erase(&mut out, at, end);
            end
        } else if rest[0] == b'r'
            && (rest.starts_with(b"r\"") || rest.starts_with(b"r#"))
            && !after_word(bytes, at)
        {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) == Some(&b'"') {
                let close = [b"\"".to_vec(), vec![b'#'; hashes]].concat();
                let start = 2 + hashes;
                let end = at
                    + find(&rest[start..], &close)
                        .map_or(rest.len(), |length| start + length + close.len());
                if strings {
                    erase(&mut out, at + start, end.saturating_sub(close.len()));
                }
                end
            } else {
                at + 1
            }
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            let end = (end + 1).min(bytes.len());
            if strings {
                erase(&mut out, at + 1, end - 1);
            }
            end
        } else if rest[0] == b'\'' && (rest.get(2) == Some(&b'\'') || rest.starts_with(b"'\\")) {
            // A character, not a lifetime.
            let from = if rest.get(1) == Some(&b'\\') { 3 } else { 2 };
            at + rest
                .iter()
                .skip(from)
                .position(|byte| *byte == b'\'')
                .map_or(1, |length| from + length + 1)
        } else {
            at + 1
        };
        at = end.max(at + 1);
    }
    String::from_utf8(out).unwrap_or_default()
}

fn after_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// The check must see what is wrong, or it holds nothing.
mod seeing {
    use super::*;

    fn judge(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source {
                path: path.into(),
                text: (*text).to_owned(),
            })
            .collect();
        violations(&sources)
    }

    #[track_caller]
    fn wrong(path: &str, text: &str, expected: &str) {
        let found = judge(&[(path, text)]);
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    }

    #[track_caller]
    fn right(path: &str, text: &str) {
        assert_eq!(judge(&[(path, text)]), Vec::<String>::new());
    }

    #[test]
    fn a_noun_that_knows_the_adapters() {
        wrong(
            "locks/mod.rs",
            "use crate::api::problem::Problem;",
            "`locks` must not use `api`",
        );
        wrong(
            "locks/mod.rs",
            "use crate::{db::Pool, web::{page, form}};",
            "`locks` must not use `web`",
        );
        wrong(
            "locks/mod.rs",
            "fn f() { super::server::serve() }",
            "`locks` must not use `server`",
        );
        wrong("locks/mod.rs", "use axum::Json;", "must not know `axum`");
        wrong(
            "plans/store.rs",
            "fn f(x: tower_http::Limit) {}",
            "must not know `tower_http`",
        );
    }

    #[test]
    fn siblings_and_circles() {
        wrong("api/mod.rs", "use crate::web;", "`api` must not use `web`");
        let found = judge(&[
            ("plans/mod.rs", "use crate::tokens;"),
            ("tokens/mod.rs", "use crate::plans;"),
        ]);
        assert_eq!(found, ["a circle: plans -> tokens -> plans"]);
        wrong("novel.rs", "use crate::db;", "give `novel` its place");
    }

    #[test]
    fn statements_in_the_wrong_place_or_without_a_name() {
        wrong(
            "web/account.rs",
            r#"sqlx::query!("/* web.x */ SELECT 1")"#,
            "SQL stands in",
        );
        wrong(
            "plans/store.rs",
            r#"sqlx::query!("SELECT 1")"#,
            "starts with its name",
        );
        wrong(
            "plans/store.rs",
            r#"sqlx::query_as!(Plan, "/* tokens.find */ SELECT 1")"#,
            "starts with its name",
        );
        wrong(
            "plans/store.rs",
            r#"sqlx::query("/* plans.find */ SELECT 1")"#,
            "not checked when compiling",
        );
        let twice = r##"sqlx::query!("/* plans.find */ SELECT 1"); sqlx::query_scalar!(r#"/* plans.find */ SELECT 2"#)"##;
        wrong("plans/store.rs", twice, "names a statement");
    }

    #[test]
    fn what_is_right() {
        right(
            "api/v1.rs",
            "use crate::{app::App, locks, transport::Outcome};",
        );
        right(
            "locks/engine.rs",
            "use super::store; // crate::web\nconst S: &str = \"crate::web axum::\";",
        );
        right(
            "locks/mod.rs",
            "use crate::db;\n#[cfg(test)]\nmod tests {\n    use super::store;\n}",
        );
        right(
            "plans/store.rs",
            r#"sqlx::query_as!(Plan, "/* plans.find_by_code */ SELECT 1", code)"#,
        );
        right(
            "web/page.rs",
            "fn f<'a>(query: &'a str) -> char { let q = query(1); '\"' }",
        );
    }
}

#[test]
fn no_file_looks_like_a_secret() {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (
                entry.path(),
                entry.file_name().to_string_lossy().into_owned(),
            );
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "node_modules") {
                    walk(&path, found);
                }
            } else if [".pem", ".key", ".p12", ".eml"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(env!("CARGO_MANIFEST_DIR")), &mut found);
    assert!(
        found.is_empty(),
        "keys and mail do not belong into the repository: {found:?}"
    );
}

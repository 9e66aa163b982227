//! SQL stands in stores, and each statement names itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::source::{Source, blank};

/// SQL in the wrong place, unchecked, or without a name of its own.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let mut wrong: Vec<String> = sources
        .iter()
        .filter(|source| source.is_rust())
        .flat_map(|source| statements(source, sources))
        .collect();
    let used: BTreeSet<&str> = sources.iter().flat_map(sql_files_of).collect();
    let mut names = BTreeMap::new();
    for source in sources {
        let file = source.path.display();
        if !source.is_rust() && !used.contains(format!("src/{file}").as_str()) {
            wrong.push(format!("{file}: no query_file! uses it"));
        }
        for name in statement_names(source) {
            if let Some(other) = names.insert(name.clone(), &source.path) {
                wrong.push(format!(
                    "{file}: `{name}` names a statement of {} too",
                    other.display()
                ));
            }
        }
    }
    wrong
}

/// The macros and functions of sqlx that take SQL, or the path of a file with SQL.
const TAKE_SQL: [&str; 5] = ["query", "query_as", "query_scalar", "raw_sql", "query_with"];
const TAKE_FILES: [&str; 3] = ["query_file", "query_file_as", "query_file_scalar"];

fn statements(source: &Source, sources: &[Source]) -> Vec<String> {
    let mut wrong = Vec::new();
    let file = source.path.display();
    let module = source.module();
    let code = blank(&source.text, true);
    let is_store = ["store.rs", "statements.rs", "sweeper.rs"]
        .iter()
        .any(|name| source.path.ends_with(name))
        || source
            .path
            .parent()
            .is_some_and(|folder| folder.ends_with("store") || folder.ends_with("statements"));
    let may_hold_sql = is_store || module == "db" || module == "outages";
    for name in TAKE_SQL.into_iter().chain(TAKE_FILES) {
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
                    "{file}: SQL stands in a store, in db or in outages"
                ));
            }
            if is_call && module != "db" {
                wrong.push(format!(
                    "{file}: `{name}` without `!` is not checked when compiling"
                ));
            }
            let literal = first_literal(&source.text[at..]);
            let is_right = if TAKE_FILES.contains(&name) {
                literal.is_some_and(|path| is_named_file(path, source, sources))
            } else {
                literal.is_some_and(|sql| is_named(sql, &source.path))
            };
            if is_macro && !is_right {
                let line = source.text[..at].lines().count();
                wrong.push(format!(
                    "{file}:{line}: a statement starts with its name, `/* {module}.what */`"
                ));
            }
        }
    }
    wrong
}

/// True for a file of SQL below the folder of the source that uses it, whose statement is named.
fn is_named_file(path: &str, source: &Source, sources: &[Source]) -> bool {
    let file = sources
        .iter()
        .find(|file| Path::new("src").join(&file.path) == Path::new(path));
    file.is_some_and(|file| {
        let mut folder = source.path.parent().unwrap();
        if folder.ends_with("statements") {
            folder = folder.parent().unwrap(); // its files stand beside it
        }
        !file.is_rust() && file.path.starts_with(folder) && is_named(&file.text, &file.path)
    })
}

/// The files of SQL that a source uses, as it names them: relative to the package.
fn sql_files_of(source: &Source) -> Vec<&str> {
    let macros = TAKE_FILES.map(|name| format!("{name}!("));
    let starts: Vec<&str> = macros.iter().map(String::as_str).collect();
    literals_after(source, &starts)
}

/// The names of the checked statements in a file.
fn statement_names(source: &Source) -> Vec<String> {
    let statements = if source.is_rust() {
        literals_after(source, &["query!(", "query_as!(", "query_scalar!("])
    } else {
        vec![source.text.as_str()]
    };
    statements
        .into_iter()
        .filter_map(|sql| {
            let (name, _) = sql.trim_start().strip_prefix("/* ")?.split_once(" */")?;
            Some(name.to_owned())
        })
        .collect()
}

/// The first string literal after each of these starts.
fn literals_after<'a>(source: &'a Source, starts: &[&str]) -> Vec<&'a str> {
    let code = blank(&source.text, true);
    let at: BTreeSet<usize> = starts
        .iter()
        .flat_map(|start| {
            code.match_indices(start)
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        })
        .collect();
    at.into_iter()
        .filter_map(|at| first_literal(&source.text[at..]))
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

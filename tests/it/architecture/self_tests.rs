//! The checks must see what is wrong, or they hold nothing.

use super::source::Source;
use super::violations;

fn judge(files: &[(&str, &str)]) -> Vec<String> {
    judge_with(files, &[])
}

fn judge_with(files: &[(&str, &str)], still_circular: &[&str]) -> Vec<String> {
    let sources: Vec<Source> = files
        .iter()
        .map(|(path, text)| Source {
            path: path.into(),
            text: (*text).to_owned(),
        })
        .collect();
    violations(&sources, still_circular)
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
    let twice = r##"sqlx::query!("/* plans.find */
       SELECT 1"); sqlx::query_scalar!(r#"/* plans.find */ SELECT 2"#)"##;
    wrong("plans/store.rs", twice, "names a statement");
}

#[test]
fn statements_in_files() {
    let using = |path: &str| format!(r#"sqlx::query_file_as!(Lease, "{path}", 1)"#);
    let sql = |path, text| (path, text);
    let here = using("src/locks/engine/sql/acquire.sql");
    let found = |rust: (&str, &str), sql: (&str, &str)| judge(&[rust, sql]);
    let place = "locks/engine/statements.rs";
    let file = "locks/engine/sql/acquire.sql";
    let named = "/* locks.acquire */ SELECT 1";
    assert_eq!(
        found((place, &here), sql(file, named)),
        Vec::<String>::new()
    );
    for (rust, sql, expected) in [
        (
            ("web/account.rs", here.as_str()),
            (file, named),
            &["SQL stands in", "starts with its name"][..],
        ),
        (
            (place, &here),
            (file, "SELECT 1"),
            &["starts with its name"],
        ),
        (
            (place, &here),
            (file, "/* tokens.acquire */ SELECT 1"),
            &["starts with its name"],
        ),
        (
            (place, &here),
            ("locks/engine/sql/other.sql", "/* locks.other */ SELECT 1"),
            &["starts with its name", "no query_file! uses it"],
        ),
        (
            (place, &using("src/tokens/sql/acquire.sql")),
            ("tokens/sql/acquire.sql", "/* tokens.acquire */ SELECT 1"),
            &["starts with its name"],
        ),
    ] {
        let found = found(rust, sql);
        assert!(
            found.len() == expected.len()
                && found
                    .iter()
                    .zip(expected)
                    .all(|(found, expected)| found.contains(expected)),
            "{found:?}"
        );
    }
    let twice = [
        here,
        r#"sqlx::query!("/* locks.acquire */ SELECT 2")"#.to_owned(),
    ]
    .join(";");
    let found = found((place, &twice), sql(file, named));
    assert!(
        found.len() == 1 && found[0].contains("names a statement"),
        "{found:?}"
    );
}

#[test]
fn circles_between_the_files_of_a_folder() {
    let circle = |files: &[(&str, &str)], expected: &str| {
        let found = judge(files);
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    };
    circle(
        &[
            ("web/page.rs", "use super::error::WebError;"),
            ("web/error.rs", "fn f() { super::page::render() }"),
        ],
        "a circle in web: error -> page -> error (web/error.rs, web/page.rs)",
    );
    circle(
        &[
            (
                "web/mod.rs",
                "mod page;\npub struct Web { page: page::Page }",
            ),
            ("web/page.rs", "use super::Web;"),
        ],
        "a circle in web: mod.rs -> page -> mod.rs",
    );
    circle(
        &[
            (
                "web/mod.rs",
                "mod page;\npub use page::Page;\npub struct Web { page: Page }",
            ),
            ("web/page.rs", "use crate::web::Web;"),
        ],
        "a circle in web",
    );
    circle(
        &[
            (
                "web/mod.rs",
                "mod page;\nmod error;\npub use error::{WebError as Problem, answer};",
            ),
            ("web/page.rs", "use super::Problem;"),
            (
                "web/error.rs",
                "use super::page::{self, other};\nfn f() { page::render() }",
            ),
        ],
        "a circle in web: error -> page -> error",
    );
    circle(
        &[
            (
                "web/admin/mod.rs",
                "use crate::web::page;\nfn f() { page::render() }",
            ),
            ("web/page.rs", "use super::admin::plans::Plan;"),
            ("web/admin/plans.rs", ""),
        ],
        "a circle in web: admin -> page -> admin",
    );
    circle(
        &[
            (
                "locks/engine/lane.rs",
                "use super::queue;\nfn f() { queue::push() }",
            ),
            (
                "locks/engine/queue.rs",
                "#[cfg(test)]\nmod tests { use super::super::lane::Lane; }",
            ),
        ],
        "a circle in locks/engine: lane -> queue -> lane",
    );
    circle(
        &[
            ("server.rs", "fn f() { tls::load() }"),
            ("server/tls.rs", "use super::DEADLINE;"),
        ],
        "a circle in server",
    );
}

#[test]
fn a_folder_that_is_still_circular_and_one_that_is_no_more() {
    let circle = [
        ("web/page.rs", "use super::error::WebError;"),
        ("web/error.rs", "fn f() { super::page::render() }"),
    ];
    assert_eq!(judge_with(&circle, &["web"]), Vec::<String>::new());
    assert_eq!(
        judge_with(&circle[..1], &["web"]),
        ["web has no circle any more: take it off STILL_CIRCULAR"]
    );
}

#[test]
fn what_is_no_circle() {
    for files in [
        // Re-exports, also for the files that use them.
        &[
            (
                "web/mod.rs",
                "mod page;\nmod error;\npub use page::Page;\npub use error::list;\nfn f(list: u8) \
                 {}",
            ),
            ("web/page.rs", "use super::Web; use super::list;"),
            ("web/error.rs", "use super::Web;"),
        ][..],
        // Uses of a child, and paths that stay in the file.
        &[
            ("web/mod.rs", "mod page;\nfn f() { page::g() }"),
            (
                "web/page.rs",
                "fn g() {}\nmod tests { use super::*; fn h() { super::g() } }",
            ),
        ],
        // An item of another crate, by an import of the parent.
        &[
            (
                "web/mod.rs",
                "mod page;\nuse axum::Router;\nfn f() { page::g() }",
            ),
            ("web/page.rs", "use super::Router;"),
        ],
        // A module without a use of its items.
        &[
            ("web/page.rs", "use super::error; // error::f()"),
            ("web/error.rs", "use super::page;\nfn f() { page::g() }"),
        ],
    ] {
        assert_eq!(judge(files), Vec::<String>::new());
    }
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

//! The examples of the docs page, as they stand there.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;
use tokio::process::Command;

use super::*;

/// The code of one block, as its copy button copies it.
async fn example(app: &TestApp, id: &str) -> String {
    let docs = app.anonymous().get("/docs").await.text;
    let code = between(&docs, &format!(r#"<code id="{id}">"#), "</code>");
    code.replace("&#34;", "\"").replace("&#39;", "'").replace("&#60;", "<").replace("&#62;", ">").replace("&#38;", "&")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_script_runs_the_job_under_the_lock_and_gives_it_back() {
    let app = TestApp::start().await;
    let token = app.account("hobbyist").await.token().await;
    let other = app.account("hobbyist").await.token().await;
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("nightly.sh"), example(&app, "code-shell").await).unwrap();
    let job = folder.path().join("nightly-report");
    // It says that it runs, and ends when told to.
    std::fs::write(&job, "#!/bin/sh\n: > running\nwhile [ ! -e end ]; do sleep 0.05; done\nexit 3\n").unwrap();
    std::fs::set_permissions(&job, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = || {
        let mut command = Command::new("sh");
        command.arg("nightly.sh").current_dir(&folder).env("LOCKABLE_AUTH_TOKEN", token.expose());
        command.kill_on_drop(true);
        command.stdout(std::process::Stdio::null());
        command
    };
    let mut first = run().spawn().unwrap();
    eventually("the job runs", async || folder.path().join("running").exists().then_some(())).await;
    assert!(!app.token(&other).acquire("nightly-report").await.verdict());
    assert_eq!(run().status().await.unwrap().code(), Some(75), "somebody has the lock");
    std::fs::write(folder.path().join("end"), "").unwrap();
    assert_eq!(first.wait().await.unwrap().code(), Some(3), "as the job ended");
    assert!(app.token(&other).acquire("nightly-report").await.verdict(), "it was given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fencing_statement_refuses_a_holder_who_is_late() {
    let app = TestApp::start().await;
    let example = example(&app, "code-fencing-sql").await;
    let (alter, update) = example.split_once(';').unwrap();
    app.db.execute("CREATE TABLE report (id integer, body text); INSERT INTO report VALUES (1, 'none')").await;
    app.db.execute(alter).await;
    let write = async |token: i64, body: &str| {
        let update = update.trim().trim_end_matches(';');
        let update =
            update.replace(":token", &token.to_string()).replace(":id", "1").replace(":body", &format!("'{body}'"));
        app.db.value::<i64>(&format!("WITH w AS ({update} RETURNING 1) SELECT count(*) FROM w")).await
    };
    assert_eq!(write(7, "first").await, 1);
    assert_eq!(write(7, "again").await, 1);
    assert_eq!(write(9, "later").await, 1);
    assert_eq!(write(7, "late").await, 0);
    assert_eq!(app.db.value::<String>("SELECT body FROM report").await, "later");
}

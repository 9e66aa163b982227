//! The examples of the documentation and of the front page, run as they are shown.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{ExitStatus, Stdio};

use lockable::secret::Secret;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::*;
use crate::support::wait::DEADLINE;

/// The code of one block, as its copy button copies it.
async fn example(app: &TestApp, id: &str) -> String {
    example_of(app, "/docs", id).await
}

/// The code of a block of another page.
async fn example_of(app: &TestApp, page: &str, id: &str) -> String {
    let docs = app.anonymous().get(page).await.text;
    let code = between(&docs, &format!(r#"<code id="{id}">"#), "</code>");
    code.replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#60;", "<")
        .replace("&#62;", ">")
        .replace("&#38;", "&")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_script_runs_the_job_under_the_lock_and_gives_it_back() {
    let app = TestApp::start().await;
    let token = app.account("hobbyist").await.token().await;
    let other = app.account("hobbyist").await.token().await;
    let folder = TempDir::new().unwrap();
    std::fs::write(
        folder.path().join("nightly.sh"),
        example(&app, "code-shell").await,
    )
    .unwrap();
    let job = folder.path().join("nightly-report");
    std::fs::write(&job, JOB).unwrap();
    std::fs::set_permissions(&job, std::fs::Permissions::from_mode(0o755)).unwrap();
    let run = || {
        let mut command = Command::new("sh");
        command
            .arg("nightly.sh")
            .current_dir(&folder)
            .env("LOCKABLE_AUTH_TOKEN", token.expose());
        command.kill_on_drop(true);
        command.stdout(std::process::Stdio::null());
        command
    };
    let mut first = run().spawn().unwrap();
    eventually("the job runs", async || {
        folder.path().join("running").exists().then_some(())
    })
    .await;
    assert!(!app.token(&other).acquire("nightly-report").await.verdict());
    assert_eq!(
        run().status().await.unwrap().code(),
        Some(75),
        "somebody has the lock"
    );
    std::fs::write(folder.path().join("end"), "").unwrap();
    assert_eq!(
        first.wait().await.unwrap().code(),
        Some(3),
        "as the job ended"
    );
    assert!(
        app.token(&other).acquire("nightly-report").await.verdict(),
        "it was given back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waiting_request_gets_the_lock_when_it_is_free() {
    let app = TestApp::start().await;
    let token = app.account("hobbyist").await.token().await;
    let holder = app.token(&app.account("hobbyist").await.token().await);
    assert!(holder.acquire("nightly-report").await.verdict());
    let mut waits = Command::new("sh");
    waits
        .arg("-c")
        .arg(example(&app, "code-waiting").await)
        .env("LOCKABLE_AUTH_TOKEN", token.expose())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let waits = waits.spawn().unwrap();
    eventually("it stands in the line", async || {
        let count = "SELECT count(*) FROM lock_tickets";
        (app.db.value::<i64>(count).await == 1).then_some(())
    })
    .await;
    assert!(!holder.acquire("nightly-report").await.verdict());
    assert!(holder.release("nightly-report").await.verdict());
    let output = waits.wait_with_output().await.unwrap();
    assert_eq!(output.stdout, br#"{"response": true}"#);
}

/// An example that runs in a folder of its own, with heartbeats as often as the test wants them.
struct Running {
    child: Child,
    folder: TempDir,
}

/// A job that says that it runs, and ends on a signal, or when its folder is deleted.
const JOB: &str =
    "#!/bin/sh\n: > running\nwhile [ -e running ] && [ ! -e end ]; do sleep 0.05; done\nexit 3\n";

impl Running {
    async fn shell(app: &TestApp, token: &Secret) -> Running {
        let script = example(app, "code-shell").await;
        assert!(script.contains("sleep 15 "));
        let mut command = Command::new("sh");
        command.arg("-c").arg(
            script
                .replace("sleep 15 ", "sleep 0.1 ")
                .replace("sleep 5;", "sleep 0.1;"),
        );
        Running::start(command, token).await
    }

    /// Runs the example with `work` in the place of its work.
    async fn python(app: &TestApp, token: &Secret, work: &str) -> Running {
        let script = example(app, "code-python").await;
        for part in ["pause = 15", "until, 15", "...  # the work"] {
            assert!(script.contains(part), "{part}");
        }
        let script = script
            .replace("pause = 15", "pause = 0.1")
            .replace("until, 15", "until, 0.1");
        let mut command = Command::new("python3");
        command
            .arg("-c")
            .arg(script.replace("...  # the work", &format!("open('running', 'w'); {work}")));
        command
            .env(
                "PYTHONPATH",
                tokio::task::block_in_place(crate::python_client::packages),
            )
            .env("NO_PROXY", "*");
        Running::start(command, token).await
    }

    /// Returns when the work has begun.
    async fn start(mut command: Command, token: &Secret) -> Running {
        let folder = TempDir::new().unwrap();
        let job = folder.path().join("nightly-report");
        std::fs::write(&job, JOB).unwrap();
        std::fs::set_permissions(&job, std::fs::Permissions::from_mode(0o755)).unwrap();
        command
            .current_dir(&folder)
            .env("LOCKABLE_AUTH_TOKEN", token.expose())
            .kill_on_drop(true);
        let child = command.stdout(Stdio::piped()).spawn().unwrap();
        eventually("the work has begun", async || {
            folder.path().join("running").exists().then_some(())
        })
        .await;
        Running { child, folder }
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(self.child.id().unwrap().cast_signed()),
            signal,
        )
        .unwrap();
    }

    /// Its exit status, once it and all processes that it started have ended: the last of them
    /// closes the pipe.
    async fn end(mut self) -> ExitStatus {
        let mut said = Vec::new();
        let mut all = self.child.stdout.take().unwrap();
        // The program that starts it waits for its child, and so does the test.
        let both = async { tokio::join!(self.child.wait(), all.read_to_end(&mut said)) };
        let ended = tokio::time::timeout(DEADLINE, both).await;
        // Processes that outlive it end now.
        std::fs::write(self.folder.path().join("end"), "").unwrap();
        let (status, read) = ended.expect("something goes on");
        read.unwrap();
        status.unwrap()
    }
}

/// Breaks the lock.
async fn break_lock(app: &TestApp) {
    app.db
        .execute("UPDATE locks SET expires_at = clock_timestamp(), end_reason = 2")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_script_ends_everything_that_it_started_on_a_signal() {
    let app = TestApp::start().await;
    let (token, other) = (
        app.account("hobbyist").await.token().await,
        app.account("hobbyist").await.token().await,
    );
    let running = Running::shell(&app, &token).await;
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().await.code(), Some(128 + 15));
    assert!(
        app.token(&other).acquire("nightly-report").await.verdict(),
        "it was given back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_shell_script_outlives_its_being_killed_or_the_loss_of_its_lease() {
    let app = TestApp::start().await;
    let token = app.account("hobbyist").await.token().await;
    let running = Running::shell(&app, &token).await;
    break_lock(&app).await;
    assert_eq!(
        running.end().await.code(),
        Some(128 + 15),
        "the job was ended"
    );
    let running = Running::shell(&app, &token).await;
    running.signal(Signal::SIGKILL);
    assert!(!running.end().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_program_works_under_the_lock_and_gives_it_back() {
    let app = TestApp::start().await;
    let (token, other) = (
        app.account("hobbyist").await.token().await,
        app.account("hobbyist").await.token().await,
    );
    let work = "[time.sleep(0.05) for _ in iter(lambda: os.path.exists('end'), True)]";
    let running = Running::python(&app, &token, work).await;
    assert!(!app.token(&other).acquire("nightly-report").await.verdict());
    std::fs::write(running.folder.path().join("end"), "").unwrap();
    assert_eq!(running.end().await.code(), Some(0));
    assert!(
        app.token(&other).acquire("nightly-report").await.verdict(),
        "it was given back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_program_stops_when_its_lease_is_lost_or_cannot_be_renewed() {
    let app = TestApp::start().await;
    let account = app.account("business").await;
    let running = Running::python(&app, &account.token().await, "time.sleep(1000)").await;
    break_lock(&app).await;
    assert_eq!(running.end().await.code(), Some(1));

    app.db
        .execute("UPDATE accounts SET lease_default_ms = 9000")
        .await;
    let running = Running::python(&app, &account.token().await, "time.sleep(1000)").await;
    app.kill();
    assert_eq!(
        running.end().await.code(),
        Some(1),
        "it stopped by its own clock"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_front_pages_commands_work_only_under_the_lock() {
    let app = TestApp::start().await;
    let (token, other) = (
        app.account("hobbyist").await.token().await,
        app.account("hobbyist").await.token().await,
    );
    assert!(app.token(&other).acquire("nightly-report").await.verdict());
    let folder = TempDir::new().unwrap();
    let job = folder.path().join("nightly-report");
    std::fs::write(&job, "#!/bin/sh\n: > running\n").unwrap();
    std::fs::set_permissions(&job, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = example_of(&app, "/", "script").await;
    let run = async || {
        let mut command = Command::new("sh");
        command
            .args(["-c", &script])
            .current_dir(&folder)
            .env("LOCKABLE_AUTH_TOKEN", token.expose());
        command.output().await.unwrap();
        job.with_file_name("running").exists()
    };
    assert!(!run().await, "somebody else has the lock");
    assert!(app.token(&other).release("nightly-report").await.verdict());
    assert!(run().await);
    assert!(
        app.token(&other).acquire("nightly-report").await.verdict(),
        "it was given back"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fencing_statement_refuses_a_holder_who_is_late() {
    let app = TestApp::start().await;
    let example = example(&app, "code-fencing-sql").await;
    let (alter, update) = example.split_once(';').unwrap();
    app.db
        .execute(
            "CREATE TABLE report (id integer, body text); INSERT INTO report VALUES (1, 'none')",
        )
        .await;
    app.db.execute(alter).await;
    let write = async |token: i64, body: &str| {
        let update = update.trim().trim_end_matches(';');
        let update = update
            .replace(":token", &token.to_string())
            .replace(":id", "1")
            .replace(":body", &format!("'{body}'"));
        app.db
            .value::<i64>(&format!(
                "WITH w AS ({update} RETURNING 1) SELECT count(*) FROM w"
            ))
            .await
    };
    assert_eq!(write(7, "first").await, 1);
    assert_eq!(write(7, "again").await, 1);
    assert_eq!(write(9, "later").await, 1);
    assert_eq!(write(7, "late").await, 0);
    assert_eq!(
        app.db.value::<String>("SELECT body FROM report").await,
        "later"
    );
}

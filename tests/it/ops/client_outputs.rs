//! Outputs of the commands that cannot be written: closed, full, or read by nobody.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::client_world::*;
use super::{DataDir, failed, succeeded};
use crate::support::prelude::*;
use crate::support::process::lockable;

/// Runs it with each kind of standard error that cannot be written.
async fn with_broken_stderr(command: impl Fn() -> Command, code: i32) {
    for (name, stderr) in broken_outputs() {
        let mut command = command();
        let child = command
            .stderr(stderr)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        assert_eq!(end_of(child).await, Some(code), "{name}: {command:?}");
    }
    // Closed, as the shell does it.
    let inner = command();
    let mut closed = Command::new("sh");
    closed
        .args(["-c", "exec \"$0\" \"$@\" 2>&-"])
        .arg(inner.get_program());
    closed
        .args(inner.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => closed.env(name, value),
            None => closed.env_remove(name),
        };
    }
    assert_eq!(
        end_of(closed.spawn().unwrap()).await,
        Some(code),
        "closed: {inner:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_complain_ends_as_it_would_otherwise() {
    let world = World::new().await;
    succeeded(&world.run(&["acquire", "taken"]).await);
    let unknown = Uuid::nil().to_string();
    for (arguments, code) in [
        (&["run", "-n", "taken", "--", "true"][..], 75),
        (&["run", "free", "--", "no-such-command"], 127),
        (&["run", "free", "--auth-token", &unknown, "--", "true"], 77),
        (&["run", "free", "--", "sh", "-c", "exit 5"], 5),
        (&["run", "..", "--", "true"], 2),
        (&["run"], 2),
        (&["acquire", "x", "--auth-token", &unknown], 77),
        (&["heartbeat", "x", "--url", "http://127.0.0.1:1"], 69),
        (&["release", "x", "--url", "nonsense"], 2),
        (
            &[
                "backup",
                "--database-url",
                "postgres://127.0.0.1:1/x",
                "/nowhere/file",
            ],
            1,
        ),
        (
            &["migrate", "--database-url", "postgres://127.0.0.1:1/x"],
            1,
        ),
        (
            &[
                "admin",
                "--database-url",
                "postgres://127.0.0.1:1/x",
                "plan",
                "list",
            ],
            1,
        ),
        (&["serve", "--listen", "203.0.113.1:1"], 1),
        (&["serve", "--log", "[nonsense"], 2),
    ] {
        with_broken_stderr(|| world.command(arguments), code).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_cannot_write_supervises_on() {
    let world = World::new().await;
    let (_reader, full_pipe) = full_pipe();
    let outputs = broken_outputs()
        .into_iter()
        .chain([("a full pipe", full_pipe)]);
    let mut runs = Vec::new();
    for (name, stderr) in outputs {
        let relay = Refusals::new(&world).await;
        // Time enough for some refusals, on a busy machine too.
        let mut run = world.command(&["run", name, "--lease", "6", "--", "sleep", "300"]);
        run.env("LOCKABLE_URL", &relay.url)
            .stderr(stderr)
            .stdout(Stdio::null());
        runs.push((name, relay, run.spawn().unwrap()));
    }
    for (name, relay, run) in &mut runs {
        world.lease_id(name).await;
        // It has something to say, and goes on renewing.
        relay.refuse(2);
        eventually("it was refused, and renewed again", async || {
            relay.is_over().then_some(())
        })
        .await;
        assert!(
            run.try_wait().unwrap().is_none() && world.is_held(name).await,
            "{name}"
        );
    }
    for (name, _relay, run) in runs {
        let lease_id = world.lease_id(name).await;
        world.break_lock(name).await;
        assert_eq!(end_of(run).await, Some(76), "{name}");
        assert_eq!(job_of(&lease_id), [0; 0], "{name}");
    }
}

/// A way to the node that answers some heartbeats 503.
struct Refusals {
    url: String,
    left: Arc<AtomicI64>,
}

impl Refusals {
    async fn new(world: &World) -> Self {
        let left = Arc::new(AtomicI64::new(0));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (node, counter) = (world.app.address, left.clone());
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let counter = counter.clone();
                tokio::spawn(async move {
                    let mut node = tokio::net::TcpStream::connect(node).await.unwrap();
                    let (mut request, mut answer) = ([0; 4096], [0; 4096]);
                    // Requests are small and come one after the other.
                    while let Ok(length @ 1..) = client.read(&mut request).await {
                        let is_heartbeat = request.starts_with(b"POST /v1/heartbeat");
                        if is_heartbeat && counter.fetch_sub(1, Ordering::SeqCst) > 0 {
                            let refusal = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
                            client.write_all(refusal.as_bytes()).await.unwrap();
                            continue;
                        }
                        node.write_all(&request[..length]).await.unwrap();
                        let length = node.read(&mut answer).await.unwrap();
                        client.write_all(&answer[..length]).await.unwrap();
                    }
                });
            }
        });
        Self { url, left }
    }

    /// The next heartbeats are refused.
    fn refuse(&self, count: i64) {
        self.left.store(count, Ordering::SeqCst);
    }

    /// True once they were, and two more were passed on.
    fn is_over(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= -2
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_cannot_write_its_log_serves_on() {
    for (name, stderr) in broken_outputs() {
        let data = DataDir::new();
        let address = free_address();
        let mut serve = lockable();
        serve.args([
            "serve",
            "--listen",
            &address,
            "--metrics-listen",
            "127.0.0.1:0",
        ]);
        serve
            .arg("--data-dir")
            .arg(data.path())
            .stderr(stderr)
            .stdout(Stdio::null());
        let serve = serve.spawn().unwrap();
        wait_until_ready(&address).await;
        send(pid(&serve), Signal::SIGTERM);
        assert_eq!(end_of(serve).await, Some(0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_written_has_a_code_of_its_own() {
    let world = World::new().await;
    for (command, verdict) in [
        ("acquire", true),
        ("acquire", false),
        ("heartbeat", true),
        ("release", true),
        ("release", false),
        ("heartbeat", false),
    ] {
        for json in [&[][..], &["--json"]] {
            let id = Uuid::new_v4().to_string();
            let _ = world.run(&["release", "job"]).await;
            if verdict == (command != "acquire") {
                succeeded(&world.run(&["acquire", "job"]).await);
            }
            let arguments = [&[command, "job"], json].concat();
            let full = std::fs::OpenOptions::new()
                .write(true)
                .open("/dev/full")
                .unwrap();
            let mut command = world.command(&arguments);
            let child = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
            let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
            let said = failed(&output.await.unwrap(), 74);
            assert!(
                said.contains(&verdict.to_string()),
                "{arguments:?} {id}: {said}"
            );
        }
    }
}

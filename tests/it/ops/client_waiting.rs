//! Waiting for a lock with `lockable run`: its options, and what a signal does meanwhile.

use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, Method, Uri};
use axum::response::Response;
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::client_world::*;
use super::{failed, succeeded};
use crate::support::client::Client;
use crate::support::prelude::*;

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_unless_it_is_told_not_to() {
    let world = World::new().await;
    succeeded(&world.run(&["acquire", "job"]).await);
    // Every way of saying how long, and every exit code.
    for (options, code, is_silent) in [
        (&["-n"][..], 75, false),
        (&["--nonblock"], 75, false),
        (&["--nb"], 75, false),
        (&["-w", "0"], 75, false),
        (&["-w", "0.3"], 75, false),
        (&["-w", ".3s"], 75, false),
        (&["--wait", "300ms"], 75, false),
        (&["--wait=0s"], 75, false),
        (&["--timeout", "0.3"], 75, false),
        (&["-n", "-E", "0"], 0, false),
        (&["-n", "-E", "7"], 7, false),
        (&["-w", "0.3", "--conflict-exit-code", "255"], 255, false),
        (&["-n", "-q"], 75, true),
        (&["--quiet", "-nE0"], 0, true),
        (&["-qw0.3"], 75, true),
        // Called wrongly.
        (&["-n", "-w", "1"], 2, false),
        (&["-E", "256"], 2, false),
        (&["-E", "-1"], 2, false),
        (&["-w", "-1"], 2, false),
        (&["-w", "soon"], 2, false),
        (&["-qw", "1d"], 2, false),
    ] {
        let arguments = [&["run"], options, &["job", "--", "true"]].concat();
        let output = world.run(&arguments).await;
        assert_eq!(output.status.code(), Some(code), "{options:?} {output:?}");
        assert_eq!(
            stderr(&output).is_empty(),
            is_silent,
            "{options:?} {output:?}"
        );
        assert!(output.stdout.is_empty(), "{options:?} {output:?}");
    }
    // As long as it takes.
    let mut waiting = world.command(&["run", "job", "--", "sh", "-c", "exit 7"]);
    let waiting = waiting.spawn().unwrap();
    eventually("it stands in the line", async || {
        let count = "SELECT count(*) FROM lock_tickets WHERE NOT is_detached";
        (world.app.db.value::<i64>(count).await == 1).then_some(())
    })
    .await;
    succeeded(&world.run(&["release", "job"]).await);
    assert_eq!(end_of(waiting).await, Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_says_what_needs_attention() {
    let world = World::new().await;
    let mut refused = world.command(&["run", "-q", "job", "--", "true"]);
    refused.env(
        "LOCKABLE_AUTH_TOKEN",
        "b9164069-49c1-45ec-a05c-025d8d84091f",
    );
    assert!(failed(&output(refused).await, 77).contains("401"));
    let missing = world
        .run(&["run", "-q", "job", "--", "no-such-command"])
        .await;
    assert!(failed(&missing, 127).contains("no-such-command"));
    let mut lost = world.command(&["run", "-q", "job", "--lease", "2", "--", "sleep", "300"]);
    let lost = lost.stderr(Stdio::piped()).spawn().unwrap();
    world.lease_id("job").await;
    world.break_lock("job").await;
    let lost = tokio::task::spawn_blocking(move || lost.wait_with_output().unwrap());
    assert!(failed(&lost.await.unwrap(), 76).contains("lost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inner_run_has_its_own_lock_in_its_environment() {
    let world = World::new().await;
    let print = "echo $LOCKABLE_LOCK $LOCKABLE_LEASE_ID $LOCKABLE_FENCING_TOKEN";
    let script = format!("{print}; \"$0\" run 'in ner' -- sh -c '{print}'; {print}");
    let lockable = crate::support::process::lockable();
    let program = lockable.get_program().to_str().unwrap();
    let output = world
        .run(&["run", "outer", "--", "sh", "-c", &script, program])
        .await;
    let text = succeeded(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("outer ") && lines[1].starts_with("in ner "),
        "{text}"
    );
    assert_eq!(lines[0], lines[2]);
    assert_ne!(
        lines[0].split(' ').nth(1),
        lines[1].split(' ').nth(2),
        "{text}"
    );
}

/// A service in front of the node that notes calls, and can hold the answers of acquires back.
struct Relay {
    url: String,
    calls: Arc<Mutex<Vec<String>>>,
    hold_acquires: watch::Sender<bool>,
}

impl Relay {
    async fn new(world: &World) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (hold_acquires, held) = watch::channel(false);
        let node = world.app.url();
        let handler = {
            let calls = calls.clone();
            move |uri: Uri, headers: HeaderMap| {
                let (calls, node, mut held) = (calls.clone(), node.clone(), held.clone());
                async move {
                    let call = uri.path().split('/').nth(2).unwrap_or_default().to_owned();
                    calls.lock().unwrap().push(call.clone());
                    if call == "acquire" {
                        held.wait_for(|held| !held).await.unwrap();
                    }
                    let request = Client::new(node)
                        .request(Method::POST, &uri.to_string())
                        .header("authorization", headers["authorization"].to_str().unwrap());
                    let answer = request.send().await.unwrap();
                    calls.lock().unwrap().push(format!("{call} answered"));
                    let mut response = Response::builder().status(answer.status().as_u16());
                    for (name, value) in answer.headers() {
                        let name: HeaderName = name.as_str().parse().unwrap();
                        if name.as_str().starts_with("lockable-") {
                            response = response.header(name, value.to_str().unwrap());
                        }
                    }
                    let body = answer.bytes().await.unwrap();
                    response.body(Body::from(body)).unwrap()
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handler);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            calls,
            hold_acquires,
        }
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

/// An older service does not remember a release that overtakes its acquire: it finds nothing to
/// release, and the acquire then holds the lock for a whole lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_releases_after_the_acquire_in_flight() {
    let world = World::new().await;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let relay = Relay::new(&world).await;
        relay.hold_acquires.send(true).unwrap();
        let mut run = world.command(&["run", "-n", "job", "--", "touch", "/nowhere/started"]);
        let run = run.env("LOCKABLE_URL", &relay.url).spawn().unwrap();
        eventually("the acquire is in flight", async || {
            (relay.calls() == ["acquire"]).then_some(())
        })
        .await;
        send(pid(&run), signal);
        // A release would come now; it is the answer that is waited for. What is shown is the
        // order in the end, whatever time passes here.
        let run_pid = pid(&run);
        eventually("the signal has arrived", async || {
            let status = std::fs::read_to_string(format!("/proc/{run_pid}/status")).unwrap();
            let pending = |name: &str| {
                let mask = status
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap();
                u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0
            };
            (!pending("ShdPnd:") && !pending("SigPnd:")).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        relay.hold_acquires.send(false).unwrap();
        assert_eq!(end_of(run).await, Some(128 + signal as i32));
        let calls = ["acquire", "acquire answered", "release", "release answered"];
        assert_eq!(relay.calls(), calls, "{signal}");
        assert!(!world.is_held("job").await, "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_without_an_answer_is_waited_for_within_bounds_and_then_released() {
    let world = World::new().await;
    let relay = Relay::new(&world).await;
    relay.hold_acquires.send(true).unwrap();
    // A request that waits has its answer late: it is not waited for.
    for options in [&["-n"][..], &[], &["-w", "60"]] {
        let before = relay.calls().len();
        let arguments = [&["run"], options, &["job", "--", "true"]].concat();
        let mut run = world.command(&arguments);
        let run = run.env("LOCKABLE_URL", &relay.url).spawn().unwrap();
        eventually("the acquire is in flight", async || {
            (relay.calls()[before..] == ["acquire"]).then_some(())
        })
        .await;
        send(pid(&run), Signal::SIGTERM);
        assert_eq!(end_of(run).await, Some(128 + 15));
        let calls = &relay.calls()[before..];
        assert_eq!(
            calls,
            ["acquire", "release", "release answered"],
            "{options:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_answers_is_given_up() {
    let world = World::new().await;
    let runs = [&["-w", "0.1"][..], &["-n"], &[]].map(|options| {
        let arguments = [&["run"], options, &["job", "--", "true"]].concat();
        let mut command = world.command(&arguments);
        command.env("LOCKABLE_URL", "http://127.0.0.1:1");
        command.spawn().unwrap()
    });
    for run in runs {
        assert_eq!(end_of(run).await, Some(69));
    }
}

/// Once it waits, an outage of the service does not end the waiting.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_does_not_end_the_waiting() {
    let world = World::new().await;
    succeeded(&world.run(&["acquire", "job"]).await);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // One answer, `false`, and then nobody is there.
    let (answered, mut answers) = watch::channel(0);
    let no = move || {
        let answered = answered.clone();
        async move {
            answered.send_modify(|count| *count += 1);
            ([("connection", "close")], r#"{"response": false}"#)
        }
    };
    let server = tokio::spawn(async move {
        axum::serve(listener, Router::new().fallback(no))
            .await
            .unwrap();
    });
    let mut run = world.command(&["run", "job", "--", "sh", "-c", "exit 7"]);
    run.env("LOCKABLE_URL", format!("http://{address}"))
        .stderr(Stdio::piped());
    let mut run = run.spawn().unwrap();
    answers.wait_for(|count| *count > 0).await.unwrap();
    server.abort();
    server.await.unwrap_err();
    let mut said = std::io::BufReader::new(run.stderr.take().unwrap());
    let said = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut said, &mut line).unwrap();
        (line, said)
    });
    let (line, _said) = said.await.unwrap();
    assert!(line.contains("trying again"), "{line}");
    // It is back, with the lock free.
    succeeded(&world.run(&["release", "job"]).await);
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let node = world.app.address;
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut node = tokio::net::TcpStream::connect(node).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
            });
        }
    });
    assert_eq!(end_of(run).await, Some(7));
}

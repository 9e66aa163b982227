//! The requests of the client's commands: names, URLs, tokens and certificates.

use std::process::{Command, Stdio};

use super::client_world::*;
use super::{failed, succeeded};

/// Names that no lock can have. Some of them were names of others on their way into a URL.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_lock_can_have_is_never_sent() {
    let world = World::new().await;
    let long = "x".repeat(256);
    for name in [
        "", ".", "..", "a\tb", "a\nb", "a\rb", "\u{1}", "a\u{7f}", "a\u{85}b", &long,
    ] {
        for command in ["acquire", "heartbeat", "release"] {
            failed(&world.run(&[command, name]).await, 2);
        }
        failed(&world.run(&["run", name, "--", "true"]).await, 2);
    }
    let locks = world
        .app
        .db
        .value::<i64>("SELECT count(*) FROM locks")
        .await;
    assert_eq!(locks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_arrives_as_it_was_given() {
    let world = World::new().await;
    let long = "ä".repeat(127);
    let names = [
        "a b",
        " a",
        "a ",
        "a/b",
        "/",
        "//",
        "a\\b",
        "...",
        "%2e",
        "%2E%2e",
        "%",
        "a%zz",
        "a+b",
        "a?b=c",
        "a#b",
        "a&b",
        "é",
        "🔒",
        "\u{feff}x",
        "'\"",
        ";",
        "http://x",
        "-",
        "~",
        &long,
    ];
    for name in names {
        succeeded(&world.run(&["acquire", "--", name]).await);
        assert!(world.is_held(name).await, "{name:?}");
        succeeded(&world.run(&["release", "--", name]).await);
    }
    let locks = world
        .app
        .db
        .value::<i64>("SELECT count(*) FROM locks")
        .await;
    assert_eq!(locks, i64::try_from(names.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_needs_no_certificates_and_the_url_may_hold_the_token() {
    let world = World::new().await;
    let url = format!("http://{}@{}", world.token, world.app.address);
    let bare = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command
            .env("SSL_CERT_FILE", "/nowhere/certificates")
            .env("SSL_CERT_DIR", "/nowhere")
            .env("LOCKABLE_URL", &url)
            .env_remove("LOCKABLE_AUTH_TOKEN");
        command
    };
    for arguments in [
        &["acquire", "job"][..],
        &["release", "job"],
        &["run", "job", "--", "true"],
    ] {
        let output = output(bare(arguments)).await;
        succeeded(&output);
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    // HTTPS cannot do without, and says so.
    let https = output(bare(&["acquire", "job", "--url", "https://x@127.0.0.1:1"])).await;
    assert!(failed(&https, 71).contains("certificate"));
    // The token is shown nowhere.
    for arguments in [
        &["acquire", "--help"][..],
        &["run", "--help"],
        &["acquire", "job", "--lease", "1h"],
        &["acquire", "job", "--nonsense"],
    ] {
        let mut command = bare(arguments);
        let output = output_with_log(&mut command).await;
        assert!(!output.contains(&world.token), "{output}");
    }
    for url in [format!("{url}:x"), format!("{url}/?q"), format!("{url}\t")] {
        let mut command = bare(&["acquire", "job"]);
        let output = output_with_log(command.env("LOCKABLE_URL", &url)).await;
        assert!(
            output.contains("LOCKABLE_URL") && !output.contains(&world.token),
            "{output}"
        );
    }
}

/// Everything that it prints, with the most detailed log.
async fn output_with_log(command: &mut Command) -> String {
    let child = command
        .env("LOCKABLE_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let output = output.await.unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

//! Settings as they are given: what cannot be read, what is empty, and what the help says.

use super::{DataDir, failed, succeeded};
use crate::support::prelude::*;
use crate::support::process::lockable;

#[test]
fn a_url_that_cannot_be_read_is_not_printed() {
    // With a / in it, the password is read as the port.
    for (command, setting, flag, url) in [
        (
            ["serve"].as_slice(),
            "LOCKABLE_SMTP_URL",
            "--smtp-url",
            "smtp://mailer:hunter/2@mail.example.com:25",
        ),
        (
            &["serve"],
            "LOCKABLE_SMTP_URL",
            "--smtp-url",
            "http://mailer:hunter2@mail.example.com",
        ),
        (
            &["serve"],
            "DATABASE_URL",
            "--database-url",
            "postgres://lockable:hunter#2@db.example.com/lockable",
        ),
        (
            &["migrate"],
            "DATABASE_URL",
            "--database-url",
            "lockable:hunter2@db.example.com",
        ),
        (
            &["admin", "plan", "list"],
            "DATABASE_URL",
            "--database-url",
            "hunter2",
        ),
    ] {
        let said = failed(
            &lockable().args(command).env(setting, url).output().unwrap(),
            2,
        );
        assert!(said.contains(setting) && !said.contains("hunter"), "{said}");
        let said = failed(
            &lockable().args(command).args([flag, url]).output().unwrap(),
            2,
        );
        assert!(said.contains(setting) && !said.contains("hunter"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_variable_is_as_good_as_none() {
    let data = DataDir::new();
    let node = Process::start(|command| {
        command
            .arg("--data-dir")
            .arg(data.path())
            .env("DATABASE_URL", "")
            .env("LOCKABLE_UNSAFE_DATABASE", "");
        for name in [
            "PUBLIC_URL",
            "TRUSTED_PROXIES",
            "SMTP_URL",
            "MAIL_FROM",
            "UPGRADE_URL",
            "TLS_CERT",
            "TLS_KEY",
        ] {
            command.env(format!("LOCKABLE_{name}"), "");
        }
        for name in [
            "OUTAGE_GRACE_MS",
            "DRAIN_TIMEOUT_MS",
            "DATABASE_CONNECTIONS",
            "LOG",
        ] {
            command.env(format!("LOCKABLE_{name}"), "");
        }
    });
    assert_eq!(node.anonymous().get("/readyz").await.status, 200);
    // One that something has to be in is still missed.
    let said = failed(
        &lockable()
            .args(["release", "x"])
            .env("LOCKABLE_AUTH_TOKEN", "")
            .output()
            .unwrap(),
        2,
    );
    assert!(said.contains("--auth-token"), "{said}");
}

#[test]
fn a_public_url_that_would_break_links_is_refused() {
    let said = failed(
        &lockable()
            .args(["serve", "--public-url", "https://example.com/locks"])
            .output()
            .unwrap(),
        2,
    );
    assert!(
        said.contains("--public-url") && said.contains("no path"),
        "{said}"
    );
}

#[test]
fn the_help_says_what_the_scopes_of_a_token_allow() {
    let help = succeeded(
        &lockable()
            .args(["admin", "token", "create", "--help"])
            .output()
            .unwrap(),
    );
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        help.contains("breaking locks, through API v2") && help.contains("[default: locks]"),
        "{help}"
    );
    let manual = include_str!("../../../docs/operations.md");
    assert!(manual.contains("`--scope manage`") && !manual.contains("not built yet"));
}

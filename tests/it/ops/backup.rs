//! Backups, and the way back.

use std::os::unix::fs::PermissionsExt;

use super::{DataDir, failed, succeeded};
use crate::support::prelude::*;
use crate::support::process::lockable;

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_never_gives_out_a_fencing_token_twice() {
    let data = DataDir::new();
    let token = data.account("business");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lockable.dump");
    let path = file.to_str().unwrap();
    let newest = {
        let node = data.serve();
        let client = node.token(&token);
        assert!(client.acquire("before").await.verdict());
        // While it runs.
        succeeded(&data.run(&["backup", path]));
        // Answered after the backup: these tokens must not come again.
        let answer = client.acquire("after").await;
        assert!(answer.verdict());
        let said = failed(&data.run(&["restore", path, "--replace"]), 1);
        assert!(said.contains("stop all nodes"), "{said}");
        answer
            .header("lockable-fencing-token")
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "no unfinished file is left"
    );
    let said = failed(&data.run(&["restore", path]), 1);
    assert!(said.contains("--replace"), "{said}");
    succeeded(&data.run(&["restore", path, "--replace"]));
    let node = data.serve();
    let client = node.token(&token);
    // "after" is free again, as the backup has it; its next token is far ahead of any that was
    // given out.
    let answer = client.acquire("after").await;
    assert!(answer.verdict());
    let next: u64 = answer
        .header("lockable-fencing-token")
        .unwrap()
        .parse()
        .unwrap();
    assert!(next > newest + (1 << 31), "{next} after {newest}");
    assert!(
        client.heartbeat("before").await.verdict(),
        "its holder had it all the time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_database_moves_to_one_of_the_operators() {
    let data = DataDir::new();
    let token = data.account("business");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lockable.dump");
    let path = path.to_str().unwrap();
    succeeded(&data.run(&["backup", path]));
    let database = Database::create_empty().await;
    let output = lockable()
        .args(["restore", path])
        .env("DATABASE_URL", database.url())
        .output()
        .unwrap();
    succeeded(&output);
    let node = Process::start(|command| {
        command
            .env("DATABASE_URL", database.url())
            .arg("--unsafe-database")
            .arg("--data-dir")
            .arg(data.path());
    });
    assert!(node.token(&token).acquire("moved").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_fails_leaves_the_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lockable.dump");
    std::fs::write(&file, "the older one").unwrap();
    let output = lockable()
        .args([
            "backup",
            file.to_str().unwrap(),
            "--database-url",
            "postgres://nobody@127.0.0.1:1/none",
        ])
        .output()
        .unwrap();
    failed(&output, 1);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "the older one");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

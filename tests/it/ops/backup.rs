//! Backups, and the way back.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

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

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_pipes_are_written_to_and_read_from() {
    let data = DataDir::new();
    let token = data.account("business");
    let node = data.serve();
    let folder = tempfile::tempdir().unwrap();

    // Root may write to a device, and the file system lets it be replaced.
    let device = folder.path().join("null");
    let made = Command::new("mknod")
        .arg(&device)
        .args(["c", "1", "3"])
        .status();
    if made.is_ok_and(|status| status.success()) {
        let said = succeeded(&data.run(&["backup", device.to_str().unwrap()]));
        assert_eq!(said, format!("written to {}\n", device.display()));
        assert!(
            std::fs::metadata(&device)
                .unwrap()
                .file_type()
                .is_char_device()
        );
    }
    succeeded(&data.run(&["backup", "/dev/null"]));
    assert!(
        std::fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );

    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::read(fifo).unwrap()
    });
    succeeded(&data.run(&["backup", fifo.to_str().unwrap()]));
    let by_fifo = reader.join().unwrap();
    assert!(std::fs::metadata(&fifo).unwrap().file_type().is_fifo());

    let mut backups = vec![by_fifo];
    for output in ["-", "/dev/stdout", "/dev/fd/1"] {
        let output = data.run(&["backup", output]);
        assert!(output.status.success(), "{output:?}");
        backups.push(output.stdout);
    }
    for backup in &backups {
        // pg_dump's mark, and not a word of ours behind it.
        assert!(backup.starts_with(b"PGDMP"));
        assert!(!String::from_utf8_lossy(&backup[backup.len() - 100..]).contains("bytes"));
    }
    drop(node);

    let backup = folder.path().join("by-standard-output.dump");
    std::fs::write(&backup, backups.pop().unwrap()).unwrap();
    let mut restore = data.command(&["restore", "-", "--replace"]);
    restore.stdin(std::fs::File::open(&backup).unwrap());
    succeeded(&restore.output().unwrap());
    let writer = std::thread::spawn({
        let (fifo, backup) = (fifo.clone(), backups.remove(0));
        move || std::fs::write(fifo, backup).unwrap()
    });
    succeeded(&data.run(&["restore", fifo.to_str().unwrap(), "--replace"]));
    writer.join().unwrap();
    let node = data.serve();
    assert!(node.token(&token).acquire("restored").await.verdict());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_followed_to_the_file_that_is_replaced() {
    let data = DataDir::new();
    data.account("hobbyist");
    let _node = data.serve();
    let (folder, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (link, file) = (folder.path().join("latest"), disk.path().join("a.dump"));
    symlink(&file, &link).unwrap();
    let mut inode = None;
    // At first it leads to no file yet.
    for _ in 0..2 {
        succeeded(&data.run(&["backup", link.to_str().unwrap()]));
        assert_eq!(std::fs::read_link(&link).unwrap(), file);
        let meta = std::fs::symlink_metadata(&file).unwrap();
        assert!(meta.is_file() && meta.len() > 1000);
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_ne!(
            inode.replace(meta.ino()),
            Some(meta.ino()),
            "a new file in one step"
        );
        for folder in [&folder, &disk] {
            assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_does_not_take_all_is_a_failure() {
    let data = DataDir::new();
    data.account("hobbyist");
    let _node = data.serve();
    let folder = tempfile::tempdir().unwrap();
    for command in ["backup", "restore"] {
        let said = failed(&data.run(&[command, folder.path().to_str().unwrap()]), 1);
        assert!(said.contains("directory"), "{said}");
    }
    let said = failed(&data.run(&["backup", "/dev/full"]), 1);
    assert!(said.contains("not complete"), "{said}");
    // A pipe that nobody reads any more.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut backup = data.command(&["backup", "-"]);
    let said = failed(&backup.stdout(writer).output().unwrap(), 1);
    assert!(said.contains("not complete"), "{said}");
}

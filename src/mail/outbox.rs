//! The folder that mail is written to if there is no mail server.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt;

pub(super) struct Outbox {
    folder: PathBuf,
}

impl Outbox {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes one message to a file of its own that only this user can read, and returns its path.
    pub(super) async fn write(&self, message: &[u8]) -> io::Result<PathBuf> {
        make_private_folder(&self.folder).await?;
        // The time sorts the files; the UUID keeps two of one instant apart.
        let now = chrono::Utc::now().format("%Y%m%dT%H%M%S%3fZ");
        let path = self
            .folder
            .join(format!("{now}-{}.eml", uuid::Uuid::new_v4().simple()));
        // Readers look for *.eml, so they never see half a message.
        let unfinished = path.with_extension("part");
        let mut file = tokio::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .await?;
        file.write_all(message).await?;
        file.sync_all().await?;
        tokio::fs::rename(&unfinished, &path).await?;
        Ok(path)
    }
}

async fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).await
}

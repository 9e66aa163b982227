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
        let outcome = async {
            let mut file = tokio::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&unfinished)
                .await?;
            file.write_all(message).await?;
            file.sync_all().await?;
            tokio::fs::rename(&unfinished, &path).await
        };
        match outcome.await {
            Ok(()) => Ok(path),
            Err(error) => {
                // Half a message on a full disk helps nobody, and takes the room of the next one.
                let _ = tokio::fs::remove_file(&unfinished).await;
                Err(error)
            }
        }
    }
}

async fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_leads_to_the_outbox_and_nothing_else_is_replaced_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        std::fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        Outbox::new(link).write(b"dear all").await.unwrap();
        let letters: Vec<_> = std::fs::read_dir(&real).unwrap().flatten().collect();
        assert_eq!(letters.len(), 1);
        assert_eq!(std::fs::read(letters[0].path()).unwrap(), b"dear all");

        let file = dir.path().join("file");
        std::fs::write(&file, "somebody's").unwrap();
        assert!(Outbox::new(file.clone()).write(b"dear all").await.is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's");
        let null = Outbox::new(PathBuf::from("/dev/null"));
        assert!(null.write(b"dear all").await.is_err());
    }
}

//! TLS: HTTP/1.1 and HTTP/2, and the reload of a renewed certificate while connections go on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow, bail};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How often the files are checked for changes. Renewals come weeks ahead; this is for an operator
/// who waits for one.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A certificate and its key, as they were last read from their files.
#[derive(Debug)]
pub(super) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    stamp: Stamp,
    /// The configuration that connections are accepted with.
    pub(super) config: RustlsConfig,
}

/// Changes when one of the two files is written or replaced, also through a link. `None` for a pipe
/// or another thing that can be read only once.
type Stamp = Option<[FileStamp; 2]>;

/// `None` if the file is not there.
type FileStamp = Option<(SystemTime, u64, u64)>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(super) fn load(cert: &Path, key: &Path) -> anyhow::Result<Self> {
        // Relative paths start where the service was started.
        let (cert, key) = (std::path::absolute(cert)?, std::path::absolute(key)?);
        let stamp = stamp(&cert, &key);
        let config = RustlsConfig::from_config(read(&cert, &key)?);
        Ok(Self {
            cert,
            key,
            stamp,
            config,
        })
    }

    /// True if this process, which may have been root when it read the files, can read them again,
    /// or will not have to.
    pub(super) fn is_readable(&self) -> bool {
        self.stamp.is_none()
            || (std::fs::File::open(&self.key).is_ok() && std::fs::File::open(&self.cert).is_ok())
    }

    /// Reloads changed files, for as long as it runs. Broken ones leave the old certificate in use.
    pub(super) async fn keep_fresh(mut self) {
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        while self.stamp.is_some() {
            ticks.tick().await;
            let (cert, key, last) = (self.cert.clone(), self.key.clone(), self.stamp);
            // Files can be on a disk that does not answer.
            let changed = tokio::task::spawn_blocking(move || {
                let stamp = stamp(&cert, &key);
                (stamp.is_some() && stamp != last).then(|| (stamp, read(&cert, &key)))
            });
            let Ok(Some((stamp, config))) = changed.await else {
                continue;
            };
            self.stamp = stamp;
            match config {
                Ok(config) => {
                    self.config.reload_from_config(config);
                    tracing::info!(
                        cert = %self.cert.display(),
                        "the renewed TLS certificate is in use"
                    );
                }
                Err(error) => tracing::error!(
                    "the changed TLS certificate is not used, the old one stays: {error:#}"
                ),
            }
        }
    }
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    let of = |file: &Path| match std::fs::metadata(file) {
        Ok(meta) if meta.is_file() => Some(Some((meta.modified().ok()?, meta.len(), meta.ino()))),
        Ok(_) => None,
        Err(_) => Some(None),
    };
    Some([of(cert)?, of(key)?])
}

fn read(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let pem = |setting: &str, file: &Path| {
        std::fs::read(file).map_err(|error| anyhow!("{setting} {}: {error}", file.display()))
    };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&pem("--tls-cert", cert)?)
            .collect::<Result<_, _>>()
            .map_err(|error| anyhow!("--tls-cert {}: {error}", cert.display()))?;
    if chain.is_empty() {
        bail!(
            "--tls-cert {}: there is no certificate in it",
            cert.display()
        );
    }
    let private = private_key(&pem("--tls-key", key)?)
        .map_err(|error| anyhow!("--tls-key {}: {error}", key.display()))?;
    let mut config =
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .with_context(|| {
                format!(
                    "the certificate {} and the key {}",
                    cert.display(),
                    key.display()
                )
            })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn private_key(pem: &[u8]) -> anyhow::Result<PrivateKeyDer<'static>> {
    // PKCS #8, and what OpenSSL wrote before.
    let marks: [&[u8]; 2] = [b"BEGIN ENCRYPTED PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED"];
    if marks
        .iter()
        .any(|mark| pem.windows(mark.len()).any(|part| part == *mark))
    {
        bail!(
            "the key is encrypted, and nobody is there to type its passphrase when the service \
             starts: write it without one (openssl pkey -in KEY -out PLAINKEY), readable for the \
             service's user only"
        );
    }
    Ok(PrivateKeyDer::from_pem_slice(pem)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypted_keys_are_told_from_broken_ones() {
        for encrypted in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
             DEK-Info: AES-256-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n",
        ] {
            let error = private_key(encrypted.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("is encrypted"), "{error}");
        }
        for broken in ["", "nonsense", "-----BEGIN CERTIFICATE-----\n"] {
            let error = private_key(broken.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("encrypted"), "{error}");
        }
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert!(private_key(key.as_bytes()).is_ok());
    }

    #[test]
    fn only_files_are_watched_and_each_replacement_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, "1").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let before = stamp(&link, &file);
        assert_eq!(stamp(&link, &file), before);
        // Of the same size, and as old.
        let (new, modified) = (dir.path().join("new"), file.metadata().unwrap().modified());
        std::fs::write(&new, "2").unwrap();
        let times = std::fs::FileTimes::new().set_modified(modified.unwrap());
        std::fs::File::options()
            .write(true)
            .open(&new)
            .unwrap()
            .set_times(times)
            .unwrap();
        std::fs::rename(&new, &file).unwrap();
        assert_ne!(stamp(&link, &file), before);
        assert_eq!(stamp(Path::new("/dev/null"), &file), None);
        assert!(stamp(Path::new("/nowhere"), &file).is_some());
    }
}

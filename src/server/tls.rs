//! TLS: HTTP/1.1 and HTTP/2, and the taking up of a renewed certificate while connections go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How often the files are looked at. Renewals come weeks ahead; this is for whoever waits for it.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The files of a certificate and its key, and what was last read from them.
#[derive(Debug)]
pub(super) struct Tls {
    cert: PathBuf,
    key: PathBuf,
    stamp: Stamp,
    /// What connections are accepted with.
    pub(super) config: RustlsConfig,
}

/// What changes when a file is written or replaced, also through a link.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub(super) fn load(cert: &Path, key: &Path) -> anyhow::Result<Self> {
        // What is relative is so to where the service was started.
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

    /// Whether this process, which may have been root when it read the key, could read it again.
    pub(super) fn is_readable(&self) -> bool {
        std::fs::File::open(&self.key).is_ok() && std::fs::File::open(&self.cert).is_ok()
    }

    /// Takes up changed files for as long as it runs. Broken ones leave the old certificate in use.
    pub(super) async fn keep_fresh(mut self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let stamp = stamp(&self.cert, &self.key);
            if stamp == self.stamp {
                continue;
            }
            self.stamp = stamp;
            match read(&self.cert, &self.key) {
                Ok(config) => {
                    self.config.reload_from_config(config);
                    tracing::info!(cert = %self.cert.display(), "the renewed TLS certificate is in use");
                }
                Err(error) => tracing::error!(
                    "the changed TLS certificate is not used, the old one stays: {error:#}"
                ),
            }
        }
    }
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    [cert, key].map(|file| {
        let meta = std::fs::metadata(file).ok()?;
        Some((meta.modified().ok()?, meta.len()))
    })
}

fn read(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| anyhow!("--tls-cert {}: {error}", cert.display()))?;
    if chain.is_empty() {
        return Err(anyhow!(
            "--tls-cert {}: there is no certificate in it",
            cert.display()
        ));
    }
    let private = PrivateKeyDer::from_pem_file(key)
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

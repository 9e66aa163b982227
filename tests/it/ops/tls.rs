//! TLS: both versions of HTTP, and a certificate that is renewed while the service runs.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use reqwest::Version;

use super::{DataDir, failed};
use crate::support::prelude::*;
use crate::support::process::lockable;

/// A certificate for localhost and its key, written the way an operator would.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
        ])
        .unwrap();
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    fn write(&self, folder: &Path) {
        for (name, text) in [("cert.pem", &self.certificate), ("key.pem", &self.key)] {
            // Replaced, as every tool for renewals does it.
            let new = folder.join(format!("{name}.new"));
            fs::write(&new, text).unwrap();
            let owner = fs::metadata(folder).unwrap();
            chown(&new, Some(owner.uid()), Some(owner.gid())).unwrap();
            fs::rename(&new, folder.join(name)).unwrap();
        }
    }

    /// A client that believes in this certificate only.
    fn client(&self) -> reqwest::ClientBuilder {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let certificate = reqwest::Certificate::from_pem(self.certificate.as_bytes()).unwrap();
        reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([certificate])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_and_a_certificate_that_changes() {
    let data = DataDir::new();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    // Readable for the user that the service becomes.
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let old = Pair::new();
    old.write(&keys);
    let node = Process::start(|command| {
        command.arg("--data-dir").arg(data.path());
        command
            .arg("--tls-cert")
            .arg(keys.join("cert.pem"))
            .arg("--tls-key")
            .arg(keys.join("key.pem"));
        command.args(["--public-url", "https://localhost"]);
    });
    let url = format!("{}/healthz", node.url());
    for (client, version) in [
        (old.client().http1_only(), Version::HTTP_11),
        (old.client().http2_prior_knowledge(), Version::HTTP_2),
        (old.client(), Version::HTTP_2),
    ] {
        let answer = client.build().unwrap().get(&url).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        assert!(answer.headers().contains_key("strict-transport-security"));
    }
    // A connection that goes on while the certificate changes.
    let kept = old.client().build().unwrap();
    assert_eq!(kept.get(&url).send().await.unwrap().status(), 200);

    // Broken: the old one stays in use.
    fs::write(
        keys.join("cert.pem"),
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    node.wait_for_line("that the broken one is not used", |line| {
        line.contains("the old one stays").then_some(())
    });
    assert_eq!(
        old.client()
            .build()
            .unwrap()
            .get(&url)
            .send()
            .await
            .unwrap()
            .status(),
        200
    );

    let new = Pair::new();
    new.write(&keys);
    eventually("the new one is in use", async || {
        new.client().build().unwrap().get(&url).send().await.ok()
    })
    .await;
    assert!(
        old.client()
            .build()
            .unwrap()
            .get(&url)
            .send()
            .await
            .is_err()
    );
    assert_eq!(kept.get(&url).send().await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_with_another_key_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    Pair::new().write(folder.path());
    fs::write(folder.path().join("key.pem"), Pair::new().key).unwrap();
    let data = DataDir::new();
    let output = lockable()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(data.path())
        .arg("--tls-cert")
        .arg(folder.path().join("cert.pem"))
        .arg("--tls-key")
        .arg(folder.path().join("key.pem"))
        .output()
        .unwrap();
    let said = failed(&output, 1);
    assert!(
        said.contains("cert.pem") && said.contains("key.pem"),
        "{said}"
    );
}

/// Runs `serve` with this certificate and key, which it refuses.
fn refused(data: &DataDir, certificate: &Path, key: &Path) -> String {
    let output = lockable()
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ])
        .arg("--data-dir")
        .arg(data.path())
        .arg("--tls-cert")
        .arg(certificate)
        .arg("--tls-key")
        .arg(key)
        .output()
        .unwrap();
    failed(&output, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_key_is_called_that() {
    let (data, folder) = (DataDir::new(), tempfile::tempdir().unwrap());
    Pair::new().write(folder.path());
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let encrypted = Command::new("openssl")
        .args(["pkey", "-aes256", "-passout", "pass:secret", "-in"])
        .arg(&key)
        .output()
        .map(|output| output.stdout)
        .ok()
        .filter(|pem| !pem.is_empty());
    // Where there is no openssl, the words that it writes.
    let encrypted = encrypted.unwrap_or_else(|| {
        let mark = "ENCRYPTED PRIVATE KEY";
        format!("-----BEGIN {mark}-----\nMIIB\n-----END {mark}-----\n").into_bytes()
    });
    fs::write(&key, encrypted).unwrap();
    let said = refused(&data, &certificate, &key);
    assert!(said.contains("key.pem: the key is encrypted"), "{said}");
    let said = refused(&data, folder.path(), &key);
    assert!(
        said.contains("--tls-cert") && said.contains("directory"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_by_pipe_is_read_once() {
    let (data, folder) = (DataDir::new(), tempfile::tempdir().unwrap());
    let pair = Pair::new();
    let (certificate, key) = (
        folder.path().join("cert.fifo"),
        folder.path().join("key.fifo"),
    );
    // Also for the user that the service becomes.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut writers = Vec::new();
    for (fifo, pem) in [(&certificate, &pair.certificate), (&key, &pair.key)] {
        nix::unistd::mkfifo(fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::set_permissions(fifo, fs::Permissions::from_mode(0o644)).unwrap();
        let (fifo, pem) = (fifo.clone(), pem.clone());
        writers.push(std::thread::spawn(move || fs::write(fifo, pem).unwrap()));
    }
    let node = Process::start(|command| {
        command.arg("--data-dir").arg(data.path());
        command
            .arg("--tls-cert")
            .arg(&certificate)
            .arg("--tls-key")
            .arg(&key);
    });
    for writer in writers {
        writer.join().unwrap();
    }
    let client = pair.client().build().unwrap();
    let url = format!("{}/healthz", node.url());
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    node.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_handshake_make_room_for_others() {
    let (data, folder) = (DataDir::new(), tempfile::tempdir().unwrap());
    let pair = Pair::new();
    pair.write(folder.path());
    let node = Process::start(|command| {
        command.arg("--data-dir").arg(data.path());
        command.args(["--connections", "16", "--connections-per-network", "16"]);
        command
            .arg("--tls-cert")
            .arg(folder.path().join("cert.pem"));
        command.arg("--tls-key").arg(folder.path().join("key.pem"));
    });
    let url = format!("{}/healthz", node.url());
    let mut silent = Vec::new();
    for client in [
        pair.client().http1_only(),
        pair.client().http2_prior_knowledge(),
    ] {
        let client = client.build().unwrap();
        // The second time on a kept connection, or on another one if that was closed for others.
        for _ in 0..2 {
            silent.extend((0..40).map(|_| TcpStream::connect(node.address).unwrap()));
            eventually("there is room", async || {
                let answer = client.get(&url).send().await.ok()?;
                (answer.status() == 200).then_some(())
            })
            .await;
        }
    }
}

//! The public Python client, `lockable.dev` from PyPI, as it is: over TLS, against the binary.
//!
//! The package has the URL of its service built in, https://api.lockable.dev. The driving
//! script sends that name to the test's own port when it is resolved, and a certificate for it is
//! made here; no file of the package is touched, which the script checks against the package's own
//! list of checksums.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::prelude::*;

const PACKAGES: &[&str] = &["lockable.dev==0.1.2", "requests>=2.32,<3"];
const HOST: &str = "api.lockable.dev";

/// The folder of the package, installed if it is not there yet. Kept between runs.
pub(crate) fn packages() -> PathBuf {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    if !folder.join("lockable/client.py").is_file() {
        let fresh = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // A virtual environment has pip where the system's Python has none.
        let environment = fresh.path().join("environment");
        succeed(
            Command::new("python3")
                .args(["-m", "venv"])
                .arg(&environment),
        );
        let (target, pip) = (fresh.path().join("packages"), environment.join("bin/pip"));
        succeed(
            Command::new(pip)
                .args(["install", "--quiet", "--target"])
                .arg(&target)
                .args(PACKAGES),
        );
        // Another run of the tests may have been faster: theirs is as good.
        std::fs::rename(&target, &folder).ok();
    }
    assert!(
        folder.join("lockable/client.py").is_file(),
        "the package is in {}",
        folder.display()
    );
    folder
}

fn succeed(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error} (script/bootstrap installs it)"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}:\n{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    output
}

/// A service over TLS, with the files by which a Python process reaches it as its author does.
struct Service {
    process: Process,
    folder: tempfile::TempDir,
    token: String,
    packages: PathBuf,
    _app: TestApp,
}

impl Service {
    async fn start() -> Service {
        let app = TestApp::start().await;
        let token = app
            .account("hobbyist")
            .await
            .token()
            .await
            .expose()
            .to_owned();
        tokio::task::block_in_place(|| {
            let folder = tempfile::tempdir().unwrap();
            let pair = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
            let (cert, key) = (
                folder.path().join("cert.pem"),
                folder.path().join("key.pem"),
            );
            std::fs::write(&cert, pair.cert.pem()).unwrap();
            std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
            let process = Process::start(|command| {
                command
                    .arg("--unsafe-database")
                    .env("DATABASE_URL", app.db.url());
                command
                    .arg("--tls-cert")
                    .arg(&cert)
                    .arg("--tls-key")
                    .arg(&key);
            });
            Service {
                process,
                folder,
                token,
                packages: packages(),
                _app: app,
            }
        })
    }

    fn python(&self, script: &str) -> Command {
        let mut command = Command::new("python3");
        command.arg(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("tests/it/python_client")
                .join(script),
        );
        command
            .env("PYTHONPATH", &self.packages)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("LOCKABLE_AUTH_TOKEN", &self.token);
        command.env("REQUESTS_CA_BUNDLE", self.folder.path().join("cert.pem"));
        command
            .env("TEST_PORT", self.process.address.port().to_string())
            .env("NO_PROXY", "*");
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_threads_on_few_locks_never_meet() {
    let service = Service::start().await;
    let counters = service.folder.path().join("counters");
    std::fs::create_dir(&counters).unwrap();
    let (locks, threads, rounds) = (3, 8, 4);
    // Several processes, since the threads of one take turns anyway.
    let outputs: Vec<Value> = tokio::task::block_in_place(|| {
        let running: Vec<_> = (0..2)
            .map(|_| {
                let arguments = [locks, threads, rounds].map(|number: u32| number.to_string());
                let mut command = service.python("contend.py");
                command
                    .arg(&counters)
                    .args(arguments)
                    .stdout(std::process::Stdio::piped());
                command
                    .stderr(std::process::Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let outputs = running
            .into_iter()
            .map(|child| child.wait_with_output().unwrap());
        outputs
            .map(|output| {
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(
                    output.status.success(),
                    "{stderr}\n{}",
                    service.process.log()
                );
                serde_json::from_slice(&output.stdout)
                    .unwrap_or_else(|error| panic!("{error}: {stderr}"))
            })
            .collect()
    });
    for output in &outputs {
        assert_eq!(
            output["met"], 0,
            "two threads in one critical section: {outputs:?}"
        );
        assert_eq!(output["entered"], threads * rounds, "{outputs:?}");
    }
    // Without protection of their own, the counters are right only if nobody was in between.
    let counted: u32 = (0..locks)
        .map(|lock| {
            std::fs::read_to_string(counters.join(lock.to_string()))
                .unwrap()
                .trim()
                .parse::<u32>()
                .unwrap()
        })
        .sum();
    assert_eq!(counted, 2 * threads * rounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_its_documentation_says_works() {
    let service = Service::start().await;
    tokio::task::block_in_place(|| succeed(&mut service.python("documented.py")));
}

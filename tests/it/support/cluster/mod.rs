//! PostgreSQL clusters for tests: one that all tests of the process share, and ones of a test's own
//! that it may break.
//!
//! A cluster never outlives the test process, however that ends: a small shell stands between them
//! as a watchdog. It reads a pipe whose other end only the test process holds; at the end of file
//! it stops PostgreSQL and removes the folder.

mod files;
mod processes;

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

pub(crate) use files::program;
use files::{as_postgres, new_folder, remove_leftovers};
use processes::{children_of, eventually_gone, stop};

/// The name of the database superuser in every test cluster.
pub(crate) const SUPERUSER: &str = "postgres";
const PORT: u16 = 5432;
/// Set by `script/test --fast`: no cluster but the shared one may be started.
pub(crate) const SHARED_ONLY: &str = "LOCKABLE_TEST_SHARED_CLUSTER_ONLY";

/// The watchdog's script: `sh -c WATCHDOG sh FOLDER postgres …`. A line on its input names a
/// signal for the postmaster, after which the folder stays; the end of its input means that the
/// tests are gone.
const WATCHDOG: &str = r#"
folder=$1; shift
"$@" </dev/null >>"$folder/log" 2>&1 & postmaster=$!
echo $postmaster
if read -r signal; then
  kill -s "$signal" $postmaster 2>/dev/null; wait $postmaster
else
  kill -s CONT $postmaster; kill -s INT $postmaster
  # Frozen backends do not end; told to quit, the postmaster kills them.
  { sleep 2; kill -s QUIT $postmaster; } &
  wait $postmaster; rm -rf "$folder"
fi
"#;

/// Panics in a run of `script/test --fast`, which leaves out the tests that start a cluster of
/// their own. It finds their files by the words `Cluster::durable` and `DataDir::new`: a helper
/// that hides them fails here.
#[track_caller]
pub(crate) fn may_start_cluster() {
    assert!(
        std::env::var_os(SHARED_ONLY).is_none(),
        "this test starts a cluster of its own, and script/test --fast did not find its file"
    );
}

/// A PostgreSQL cluster on a Unix socket. Stopped and removed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: PathBuf,
    settings: Vec<String>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    watchdog: Child,
    orders: ChildStdin,
    postmaster: Pid,
}

impl Cluster {
    /// The one that all tests share: fast, because nothing in it has to survive. Started by the
    /// first who asks.
    pub(crate) fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            remove_leftovers();
            Cluster::create(&[
                "fsync=off",
                "synchronous_commit=off",
                "full_page_writes=off",
                "wal_level=minimal",
                "max_wal_senders=0",
                "autovacuum=off",
                "max_connections=600",
            ])
        })
    }

    /// One of the test's own, as a careful operator would run it: it keeps what it committed.
    pub(crate) fn durable() -> Cluster {
        Cluster::durable_with(&[])
    }

    /// As [`Cluster::durable`], with settings of the test's, each `name=value`.
    pub(crate) fn durable_with(settings: &[&str]) -> Cluster {
        may_start_cluster();
        let mut all = vec!["max_connections=200"];
        all.extend(settings);
        Cluster::create(&all)
    }

    fn create(settings: &[&str]) -> Cluster {
        let cluster = Cluster::empty(settings);
        let output = as_postgres(&program("initdb"))
            .arg("--pgdata")
            .arg(cluster.data())
            .args([
                "--username",
                SUPERUSER,
                "--auth",
                "trust",
                "--encoding",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ])
            .output()
            .expect("initdb can be run");
        assert!(
            output.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        cluster.start();
        cluster
    }

    /// A folder for a cluster, without data in it: for a copy of another (see [`Cluster::copy`]).
    fn empty(settings: &[&str]) -> Cluster {
        let folder = new_folder();
        Cluster {
            folder,
            settings: settings.iter().map(ToString::to_string).collect(),
            running: Mutex::new(None),
        }
    }

    /// A physical copy of this running cluster as of now, a standby that has not been started, with
    /// a data folder of its own.
    pub(crate) fn copy(&self) -> Cluster {
        let copy = Cluster {
            folder: new_folder(),
            settings: self.settings.clone(),
            running: Mutex::new(None),
        };
        let output = as_postgres(&program("pg_basebackup"))
            .arg("--pgdata")
            .arg(copy.data())
            .args([
                "--checkpoint",
                "fast",
                "--no-sync",
                "--wal-method",
                "stream",
                "--username",
                SUPERUSER,
            ])
            .args(["--port", &PORT.to_string(), "--host"])
            .arg(self.socket_folder())
            .output()
            .expect("pg_basebackup can be run");
        assert!(
            output.status.success(),
            "pg_basebackup failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        copy
    }

    /// Starts it, after [`Cluster::stop`], [`Cluster::crash`] or [`Cluster::copy`], and waits until
    /// it answers.
    pub(crate) fn start(&self) {
        let mut running = self.running.lock().unwrap();
        assert!(running.is_none(), "the cluster runs already");
        let socket_option = format!("unix_socket_directories={}", self.socket_folder().display());
        let port_option = format!("port={PORT}");
        let mut command = as_postgres(Path::new("/bin/sh"));
        command
            .args(["-c", WATCHDOG, "sh"])
            .arg(&self.folder)
            .arg(program("postgres"))
            .arg("-D")
            .arg(self.data());
        for setting in ["listen_addresses=", &socket_option, &port_option] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        // A group of its own: Ctrl-C ends the tests, and the watchdog sees that and tidies up.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut watchdog = command.spawn().expect("the watchdog shell can be started");
        let mut line = String::new();
        BufReader::new(watchdog.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let postmaster = Pid::from_raw(
            line.trim()
                .parse()
                .expect("the watchdog says the postmaster's process id"),
        );
        let orders = watchdog.stdin.take().unwrap();
        *running = Some(Running {
            watchdog,
            orders,
            postmaster,
        });
        drop(running);
        self.wait_until_ready(postmaster);
    }

    /// Waits for the state in the postmaster's own lock file, the way `pg_ctl` does.
    fn wait_until_ready(&self, postmaster: Pid) {
        let started = Instant::now();
        loop {
            let file =
                std::fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let lines: Vec<&str> = file.lines().map(str::trim).collect();
            if lines.first() == Some(&postmaster.to_string().as_str())
                && matches!(lines.get(7), Some(&"ready" | &"standby"))
            {
                return;
            }
            let alive = kill(postmaster, None).is_ok();
            assert!(
                alive && started.elapsed() < crate::support::wait::DEADLINE,
                "PostgreSQL did not start:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it in the ordinary way (`pg_ctl stop -m fast`) and waits for that.
    pub(crate) fn stop(&self) {
        self.end("INT");
    }

    /// Kills every one of its processes with SIGKILL, as a crash would.
    pub(crate) fn crash(&self) {
        let postmaster = self.postmaster();
        // Or it might start another one between the look and the kill, which would live on and keep
        // the next start from the shared memory.
        stop(postmaster);
        let mut processes = vec![postmaster];
        processes.extend(children_of(postmaster));
        // The postmaster first, or it would begin to recover from the death of its children.
        for process in &processes {
            kill(*process, Signal::SIGKILL).ok();
        }
        self.end("KILL");
        // Their shared memory must be free before the next start.
        eventually_gone(&processes);
    }

    /// Freezes all its processes: connections stay open, nothing answers. Until
    /// [`Cluster::resume`].
    pub(crate) fn pause(&self) {
        let postmaster = self.postmaster();
        stop(postmaster);
        for process in children_of(postmaster) {
            kill(process, Signal::SIGSTOP).ok();
        }
    }

    /// Lets it go on after [`Cluster::pause`].
    pub(crate) fn resume(&self) {
        let postmaster = self.postmaster();
        for process in children_of(postmaster) {
            kill(process, Signal::SIGCONT).ok();
        }
        kill(postmaster, Signal::SIGCONT).ok();
    }

    fn postmaster(&self) -> Pid {
        self.running
            .lock()
            .unwrap()
            .as_ref()
            .expect("the cluster runs")
            .postmaster
    }

    fn end(&self, signal: &str) {
        let Running {
            mut watchdog,
            mut orders,
            ..
        } = self
            .running
            .lock()
            .unwrap()
            .take()
            .expect("the cluster runs");
        writeln!(orders, "{signal}").unwrap();
        watchdog.wait().unwrap();
    }

    /// The options of connections to one of its databases, as superuser.
    pub(crate) fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.socket_folder())
            .port(PORT)
            .username(SUPERUSER)
            .password("")
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// The same as a URL, for `DATABASE_URL`.
    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres:///{database}?host={}&port={PORT}&user={SUPERUSER}",
            self.socket_folder().display()
        )
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket_folder().join(format!(".s.PGSQL.{PORT}"))
    }

    /// One of PostgreSQL's client programs (`pg_dump`, `psql`, …), set up to connect to this
    /// cluster.
    pub(crate) fn client(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .env("PGHOST", self.socket_folder())
            .env("PGPORT", PORT.to_string())
            .env("PGUSER", SUPERUSER);
        command
    }

    /// PostgreSQL's log.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn socket_folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let running = self.running.lock().map(|mut running| running.take());
        if let Ok(Some(Running {
            mut watchdog,
            orders,
            postmaster,
        })) = running
        {
            for process in children_of(postmaster) {
                kill(process, Signal::SIGCONT).ok();
            }
            drop(orders);
            watchdog.wait().ok();
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

"""The throw-away servers that script/bench measures: started on loopback, in one folder that is
deleted with them.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIVE_LEASE_MS = 86_400_000
# The private namespace whose locks requests wait for.
LINES = "lines"
# The lease ids of the locks of reset_live_locks, from their numbers, as benches/load knows them.
LEASE_ID = "('00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(command, **more):
    """Runs a program and returns its standard output; raises its error output if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    if done.returncode != 0:
        raise RuntimeError(
            f"{pathlib.Path(str(command[0])).name} failed: "
            f"{(done.stderr or done.stdout).strip()[-2000:]}"
        )
    return done.stdout


def cpu_seconds(pids):
    """The processor time that each of these processes has used so far, seconds."""
    used = {}
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def cpu_since(before, pids):
    """The processor time used since `before`, seconds; of processes that are new, all of it."""
    return sum(used - before.get(pid, 0) for pid, used in cpu_seconds(pids).items())


class Server:
    """One process. Leaving the context stops it."""

    def __init__(self, name, command, folder, ready, env=None, wait=60):
        self.name = name
        self.log = pathlib.Path(folder) / f"{name}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                cwd=folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + wait
        while not ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(
                    f"{name} does not start: {self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)

    def shorten_log(self):
        """Empties a long log: a line for each request comes to gigabytes, which must not reach the
        disk that is measured.
        """
        if self.log.stat().st_size > 1_000_000:
            os.truncate(self.log, 0)

    def stop(self):
        for signal_number, patience_s in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):
            if self.process.poll() is not None:
                return
            self.process.send_signal(signal_number)
            try:
                self.process.wait(patience_s)
                return
            except subprocess.TimeoutExpired:
                print(f"  {self.name} has not stopped after {patience_s} s", flush=True)


def http_ok(url):
    def is_ready():
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                return response.status == 200
        except OSError:
            return False

    return is_ready


def connects(port):
    def is_ready():
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return is_ready


class Bench:
    """Everything that runs during a measurement, by name, started when it is first needed."""

    def __init__(self, target, place):
        self.binaries = (ROOT / target).resolve() / "release"
        self.tools = self.binaries / "examples"
        self.pg_bin = pathlib.Path(os.environ["PG_BIN"])
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lockable-bench-", dir=place))
        # The service becomes another user if it is started as root.
        self.folder.chmod(0o711)
        self.servers = {}
        self.tokens = []
        self.lines_token = None
        self.lock_tables = "locks, lease_ends, lock_tickets, lock_members"
        self.data_dir = self.folder / "data"
        self.port = self.metrics_port = None
        self.flags = ()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in reversed(list(self.servers.values())):
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, name):
        server = self.servers.pop(name, None)
        if server:
            server.stop()

    # Lockable and its PostgreSQL

    def lockable(self, *flags):
        """Starts the service unless it runs with these flags. Returns its socket address."""
        if "lockable" in self.servers and flags != self.flags:
            self.stop("bare")
            self.stop("lockable")
        if "lockable" not in self.servers:
            self.flags = flags
            self.port, self.metrics_port = free_port(), free_port()
            if not self.data_dir.exists():
                self.prepare_data_dir()
            self.servers["lockable"] = Server(
                "lockable",
                [
                    self.binaries / "lockable",
                    "serve",
                    "--data-dir",
                    self.data_dir,
                    "--listen",
                    f"127.0.0.1:{self.port}",
                    "--metrics-listen",
                    f"127.0.0.1:{self.metrics_port}",
                    # All connections come from one address.
                    "--connections-per-network",
                    24_000,
                    *flags,
                ],
                self.folder,
                http_ok(f"http://127.0.0.1:{self.port}/readyz"),
            )
            if not self.tokens:
                self.make_accounts()
        return f"127.0.0.1:{self.port}"

    def prepare_data_dir(self):
        """Makes room for pgbench's 64 sessions: the one setting that is not the default."""
        run([self.binaries / "lockable", "migrate", "--data-dir", self.data_dir])
        own = self.data_dir / "postgresql.conf"
        own.write_text("max_connections = 200\n")
        own.chmod(0o644)

    def delay_commits(self, delay_us):
        """Makes each commit sleep before its flush, as with a synchronous standby that far away."""
        for text in (
            f"ALTER SYSTEM SET commit_delay = {delay_us}",
            "ALTER SYSTEM SET commit_siblings = 0",
            "SELECT pg_reload_conf()",
        ):
            self.sql(text, superuser=True)

    def admin(self, *arguments):
        return run(
            [self.binaries / "lockable", "admin", "--data-dir", self.data_dir, *arguments]
        ).strip()

    def make_accounts(self):
        self.admin(
            "plan",
            "create",
            "bench",
            "--name",
            "Bench",
            "--lease-min-ms",
            1000,
            "--lease-default-ms",
            60000,
            "--lease-max-ms",
            LIVE_LEASE_MS,
            "--tokens",
            10,
            "--live-locks",
            100_000_000,
            "--private-namespaces",
            1,
            "--waiters",
            20_000,
            "--requests-per-second",
            1_000_000,
        )
        for number in range(4):
            email = f"bench{number}@example.com"
            self.admin("account", "create", "--email", email, "--plan", "bench")
            self.tokens.append(self.admin("token", "create", "--email", email))
        self.sql(f"""INSERT INTO namespaces (account_id, name)
                     SELECT account_id, '{LINES}' FROM accounts
                      WHERE email = 'bench0@example.com'""")
        self.lines_token = self.admin(
            "token", "create", "--email", "bench0@example.com", "--namespace", LINES
        )

    def pids(self):
        """The service's process, and those of its PostgreSQL."""
        service = self.servers["lockable"].process.pid
        try:
            postmaster = int((self.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
        except OSError:
            return service, []
        children = (
            pathlib.Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        )
        return service, [postmaster, *map(int, children)]

    def metric(self, name):
        """A number of the service's metrics; 0 if it is not among them yet."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10
        ) as response:
            for line in response.read().decode().splitlines():
                if line.split(" ")[0] == name:
                    return float(line.split(" ")[1])
        return 0.0

    def sql(self, text, superuser=False, timeout=1800):
        """Runs SQL as the service's role, or as the superuser, as only the cluster's owner may."""
        more = {}
        if superuser and os.geteuid() == 0:
            meta = (self.data_dir / "postgres").stat()
            more = {"user": meta.st_uid, "group": meta.st_gid, "extra_groups": []}
        command = [
            self.pg_bin / "psql",
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            self.data_dir / "run",
            "-U",
            "postgres" if superuser else "lockable",
            "lockable",
        ]
        return run(command, input=text, cwd="/", timeout=timeout, **more).strip()

    def account(self, number=0):
        return self.sql(
            f"SELECT account_id, min(token_id) FROM accounts JOIN api_tokens USING (account_id) "
            f"WHERE email = 'bench{number}@example.com' GROUP BY 1"
        ).split("|")

    def reset_live_locks(self, count, needs_proof=False):
        """Fills an empty table with `count` live locks, then makes a checkpoint: the start of each
        measurement. `needs_proof`: of leases that only their ids release.
        """
        for server in self.servers.values():
            server.shorten_log()
        account_id, token_id = self.account()
        self.sql(f"SET lock_timeout = '60s'; TRUNCATE {self.lock_tables};")
        step = 500_000
        for first in range(0, count, step):
            self.sql(f"""INSERT INTO locks (namespace_id, account_id, token_id, fencing_token,
                                            acquired_at, expires_at, lease_id, lease_ms,
                                            needs_proof, name)
              SELECT 1, {account_id}, {token_id}, nextval('lock_fence'), clock_timestamp(),
                     clock_timestamp() + interval '1 day',
                     {LEASE_ID}, {LIVE_LEASE_MS}, {needs_proof},
                     'k' || lpad(i::text, 8, '0')
                FROM generate_series({first}, {min(first + step, count) - 1}) i""")
            if count > step:
                print(f"  {min(first + step, count):,} locks", end="\r", flush=True)
        self.sql("VACUUM (ANALYZE) locks")
        self.sql("CHECKPOINT", superuser=True)

    # The others

    def bare(self):
        """Starts the HTTP side alone, over the same database. Returns its socket address."""
        self.lockable()
        if "bare" not in self.servers:
            self.bare_port = free_port()
            # A folder of its own, for its outbox.
            url = f"postgres:///lockable?host={self.data_dir / 'run'}&user=lockable"
            data_dir = self.folder / "bare"
            data_dir.mkdir(exist_ok=True)
            self.servers["bare"] = Server(
                "bare",
                [
                    self.binaries / "examples" / "bare",
                    "--listen",
                    f"127.0.0.1:{self.bare_port}",
                    "--database-url",
                    url,
                    "--data-dir",
                    data_dir,
                ],
                self.folder,
                connects(self.bare_port),
            )
            # The listener for changes has to run before tokens are cached.
            time.sleep(1)
        return f"127.0.0.1:{self.bare_port}"

    def etcd(self):
        if "etcd" not in self.servers:
            self.etcd_port, peer = free_port(), free_port()
            self.servers["etcd"] = Server(
                "etcd",
                [
                    "etcd",
                    "--data-dir",
                    self.folder / "etcd",
                    "--listen-client-urls",
                    f"http://127.0.0.1:{self.etcd_port}",
                    "--advertise-client-urls",
                    f"http://127.0.0.1:{self.etcd_port}",
                    "--listen-peer-urls",
                    f"http://127.0.0.1:{peer}",
                    "--initial-advertise-peer-urls",
                    f"http://127.0.0.1:{peer}",
                    "--initial-cluster",
                    f"default=http://127.0.0.1:{peer}",
                ],
                self.folder,
                http_ok(f"http://127.0.0.1:{self.etcd_port}/health"),
            )
        return f"127.0.0.1:{self.etcd_port}"

    def redis(self):
        if "redis" not in self.servers:
            self.redis_port = free_port()
            folder = self.folder / "redis"
            folder.mkdir(exist_ok=True)
            self.servers["redis"] = Server(
                "redis",
                [
                    "redis-server",
                    "--port",
                    self.redis_port,
                    "--bind",
                    "127.0.0.1",
                    "--dir",
                    folder,
                    "--appendonly",
                    "yes",
                    "--appendfsync",
                    "always",
                    "--save",
                    "",
                    "--daemonize",
                    "no",
                ],
                self.folder,
                connects(self.redis_port),
            )
        return self.redis_port


def statement(kind):
    """The engine's own statement for one lock, as a script for pgbench. For acquires this is
    insert-if-absent, which the engine sends if every name is new.
    """
    name = {"acquire": "insert_if_absent"}.get(kind, kind)
    text = (
        (ROOT / "src" / "locks" / "engine" / "sql" / f"{name}.sql").read_text().replace('!"', '"')
    )
    text = re.sub(r"^\s*--.*\n", "", text, flags=re.M)
    # By the number of the parameter; the others are no arrays.
    values = {
        "acquire": {
            1: "1",
            2: "'p' || :name::bigint",
            3: ":account::bigint",
            4: ":token::bigint",
            5: "gen_random_uuid()",
            6: "false",
            7: "60000",
            8: "NULL",
            9: "NULL",
            11: "NULL",
        },
        "heartbeat": {
            1: "1",
            2: "'k' || lpad(:name::text, 8, '0')",
            3: ":account::bigint",
            4: "NULL",
            5: "NULL",
        },
    }[kind]
    types = dict(re.findall(r"\$(\d+)::(\w+)\[\]", text))
    assert set(map(int, types)) == set(values), f"locks.{name} has other parameters: {types}"
    names = {
        "acquire": r"\set name random(1, 1000000000000000000)",
        "heartbeat": r"\set name random(0, 9999)",
    }
    text = re.sub(
        r"\$(\d+)::(\w+)\[\]",
        lambda match: f"ARRAY[{values[int(match[1])]}]::{match[2]}[]",
        text,
    )
    # The latest instant: a statement that is measured may write whenever it arrives.
    text = re.sub(r"\$\d+::timestamptz", "'infinity'::timestamptz", text)
    assert not re.search(r"\$\d", text), f"locks.{name} has a parameter without a value: {text}"
    return f"{names[kind]}\n{text.strip()};\n"


def json_line(text):
    return json.loads(text.strip().splitlines()[-1])

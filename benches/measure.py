"""Single measurements: a rate or a median each, with the processor time that it took."""

import os
import re
import statistics
import subprocess
import tempfile
import time

from servers import ROOT, cpu_seconds, cpu_since, json_line, run, statement

# The settings of the engine's connections (src/db/mod.rs): the planner may not leave the primary
# key.
ENGINE_SESSION = (
    "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off "
    "-c plan_cache_mode=force_generic_plan -c lock_timeout=1s"
)
WARM_UP_S = 1


def load(bench, shape, socket_address, path, connections, seconds, tokens=1, nice=0, **more):
    """The report of one run of benches/load, and the cores that the service and PostgreSQL used."""
    command = [
        *(["nice", "-n", nice] if nice else []),
        bench.tools / "load",
        shape,
        "--address",
        socket_address,
        "--path",
        path,
        "--connections",
        connections,
        "--seconds",
        seconds,
        "--warm-up",
        WARM_UP_S,
    ]
    if tokens:
        for token in bench.tokens[:tokens]:
            command += ["--token", token]
    for name, value in more.items():
        command += [f"--{name.replace('_', '-')}", value]
    result = with_cores(bench, command, seconds + 120)
    unexpected = result["unexpected"]["count"] + result["broken_connections"]
    if unexpected > 0.001 * max(1, result["good"]["count"]):
        print(
            f"  note: {unexpected:,} responses were not as expected: {result['statuses']}",
            flush=True,
        )
    return result


def with_cores(bench, command, timeout):
    """The report of a load generator, and the cores that the service and PostgreSQL used."""
    service, postgres = bench.pids() if "lockable" in bench.servers else (0, [])
    before = cpu_seconds([service, *postgres])
    started = time.monotonic()
    result = json_line(run(command, timeout=timeout))
    took = time.monotonic() - started
    result["cores_service"] = cpu_since(before, [service]) / took
    result["cores_postgres"] = cpu_since(before, bench.pids()[1] if postgres else []) / took
    return result


def bare(bench, connections, seconds):
    return load(bench, "closed", bench.bare(), "/v1/acquire/{new}", connections, seconds)


def each(bench, connections, seconds):
    bench.reset_live_locks(10_000)
    return load(bench, "closed", bench.bare(), "/each/acquire/{new}", connections, seconds)


def acquire(bench, connections, seconds, live=10_000, query=""):
    if live:
        bench.reset_live_locks(live)
    return load(
        bench, "closed", bench.lockable(), f"/v1/acquire/{{new}}{query}", connections, seconds
    )


def heartbeat(bench, connections, seconds, live=10_000, among=10_000):
    if live:
        bench.reset_live_locks(live)
    return load(
        bench, "closed", bench.lockable(), "/v1/heartbeat/{of}", connections, seconds, among=among
    )


# More than are released in a run.
RELEASES = 500_000


def release(bench, connections, seconds, with_ids=False):
    """Releases of different locks; `with_ids`: of leases that only their ids release."""
    bench.reset_live_locks(RELEASES, needs_proof=with_ids)
    path = "/v1/release/{each}" + ("?lease_id={id}" if with_ids else "")
    return load(bench, "closed", bench.lockable(), path, connections, seconds, among=RELEASES)


def hand_over(bench, seconds, locks, connections, **more):
    """Waiters in line, each of which hands its lock to the next: hand-overs a second, and how long
    each took.
    """
    bench.lockable()
    bench.reset_live_locks(10_000)
    command = [
        bench.tools / "load",
        "hand-over",
        "--address",
        bench.lockable(),
        "--token",
        bench.lines_token,
        "--locks",
        locks,
        "--connections",
        connections,
        "--seconds",
        seconds,
    ]
    for name, value in more.items():
        command += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    result = with_cores(bench, command, seconds + 150)
    odd = {
        name: result[name]
        for name in ("wrong_grants", "refused", "lost_leases", "errors", "broken_connections")
        if result[name]
    }
    if odd:
        print(f"  note: not everything was as expected: {odd}", flush=True)
    return result


def batch(bench, kind, size, seconds):
    """The engine's statement alone, for `size` locks at once, over one connection."""
    bench.lockable()
    bench.reset_live_locks(10_000)
    account_id, token_id = bench.account()
    url = f"postgres:///lockable?host={bench.data_dir / 'run'}&user=lockable"
    return json_line(
        run(
            [
                bench.tools / "batch",
                kind,
                "--database-url",
                url,
                "--account-id",
                account_id,
                "--token-id",
                token_id,
                "--size",
                size,
                "--seconds",
                seconds,
            ],
            timeout=seconds + 60,
        )
    )


def etcd(bench, connections, seconds):
    body = (
        '{"compare":[{"target":"VERSION","key":"{new64}","version":"0"}],'
        '"success":[{"requestPut":{"key":"{new64}","value":"eA=="}}]}'
    )
    return load(
        bench,
        "closed",
        bench.etcd(),
        "/v3/kv/txn",
        connections,
        seconds,
        tokens=0,
        method="POST",
        body=body,
        expect='"succeeded":true',
    )


def redis(bench, connections, seconds):
    """redis-benchmark takes a number of requests, not a time: a short run estimates the number."""
    port, requests, started = bench.redis(), 20_000, time.monotonic()
    while True:
        text = run(
            [
                "redis-benchmark",
                "-p",
                port,
                "-c",
                connections,
                "-n",
                requests,
                "-r",
                1_000_000_000_000,
                "--csv",
                "SET",
                "lock:__rand_int__",
                "holder",
                "NX",
                "PX",
                60000,
            ],
            timeout=seconds * 20 + 60,
        )
        rate = float(text.strip().splitlines()[-1].split('","')[1].strip('"'))
        took = time.monotonic() - started
        if requests > 20_000 or took >= seconds:
            return {"rate": rate}
        requests = max(20_001, int(rate * seconds))


def pgbench(bench, kind, clients, seconds, median=False):
    """The engine's statement through pgbench, one lock at a time, on the same socket."""
    bench.lockable()
    bench.reset_live_locks(10_000)
    account_id, token_id = bench.account()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        script = os.path.join(folder, f"{kind}.sql")
        with open(script, "w") as file:
            file.write(statement(kind))
        command = [
            bench.pg_bin / "pgbench",
            "-n",
            "-M",
            "prepared",
            "-c",
            clients,
            "-j",
            min(2, clients),
            "-T",
            seconds,
            "-f",
            script,
            "-D",
            f"account={account_id}",
            "-D",
            f"token={token_id}",
            "-h",
            bench.data_dir / "run",
            "-U",
            "lockable",
            *(["-l", "--log-prefix", os.path.join(folder, "log")] if median else []),
            "lockable",
        ]
        text = run(
            command, cwd="/", env={**os.environ, "PGOPTIONS": ENGINE_SESSION}, timeout=seconds + 120
        )
        result = {"rate": float(re.search(r"tps = ([0-9.]+)", text).group(1))}
        failed = re.search(r"number of failed transactions: ([0-9]+)", text)
        if failed and int(failed.group(1)):
            print(f"  note: {failed.group(1)} transactions of pgbench failed", flush=True)
        if median:
            times = []
            for name in os.listdir(folder):
                if name.startswith("log"):
                    with open(os.path.join(folder, name)) as log:
                        times += [int(line.split()[2]) for line in log]
            result["good"] = {"p50_us": statistics.median(times)}
    return result


def wrk(bench, connections, seconds):
    """The same as `acquire`, measured with wrk, which everybody has."""
    bench.reset_live_locks(10_000)
    import base64

    credentials = base64.b64encode(f"{bench.tokens[0]}:".encode()).decode()
    text = run(
        [
            "wrk",
            "-t2",
            f"-c{connections}",
            f"-d{seconds}s",
            "-s",
            ROOT / "benches" / "new-names.lua",
            "-H",
            f"Authorization: Basic {credentials}",
            f"http://{bench.lockable()}/",
        ],
        timeout=seconds + 60,
    )
    rejected = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if rejected:
        print(f"  note: wrk saw {rejected.group(1)} responses other than 200", flush=True)
    return {"rate": float(re.search(r"Requests/sec:\s+([0-9.]+)", text).group(1))}


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def idle(bench, connections):
    """The service's memory for a kept connection that has sent one request and is quiet."""
    bench.stop("bare")
    bench.stop("lockable")
    socket_address = bench.lockable()
    # Warms up: the first requests allocate memory that is not the connections'.
    load(bench, "closed", socket_address, "/v1/heartbeat/{of}", 64, 2)
    time.sleep(2)
    service, _ = bench.pids()
    before = resident_bytes(service)
    command = [
        bench.tools / "load",
        "idle",
        "--address",
        socket_address,
        "--path",
        "/v1/heartbeat/nobody-holds-it",
        "--expect",
        '"response": false',
        "--connections",
        connections,
        "--token",
        bench.tokens[0],
    ]
    holder = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        held = json_line(holder.stdout.readline())
        time.sleep(3)
        after = resident_bytes(service)
    finally:
        holder.stdin.close()
        holder.wait(30)
    if held["good"] != connections:
        print(f"  note: of {connections:,} connections {held}", flush=True)
    return {
        "connections": held["held"],
        "bytes_before": before,
        "bytes_with": after,
        "bytes_each": (after - before) / max(1, held["held"]),
    }


def crowd(bench, connections, locks):
    """The service's memory for a request that waits, beside that of its idle connection: the same
    connections first idle, then each with a request in line.
    """
    bench.stop("bare")
    bench.stop("lockable")
    socket_address = bench.lockable()
    bench.reset_live_locks(10_000)
    # Warms up: the first requests, and the first waiters, allocate memory that is not theirs.
    load(bench, "closed", socket_address, "/v1/heartbeat/{of}", 64, 2)
    hand_over(bench, 1, 64, 256)
    time.sleep(2)
    service, _ = bench.pids()
    command = [
        bench.tools / "load",
        "crowd",
        "--address",
        socket_address,
        "--token",
        bench.lines_token,
        "--connections",
        connections,
        "--locks",
        locks,
    ]
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def step():
        process.stdin.write("\n")
        process.stdin.flush()
        return json_line(process.stdout.readline())

    try:
        held = json_line(process.stdout.readline())
        if held.get("held") != connections:
            raise RuntimeError(f"the crowd could not be opened: {held}")
        time.sleep(3)
        idle_bytes = resident_bytes(service)
        step()
        deadline = time.monotonic() + 20
        while (waiters := bench.metric("lockable_waiters")) < connections:
            if time.monotonic() > deadline:
                print(f"  note: of {connections:,} requests {waiters:,.0f} wait", flush=True)
                break
            time.sleep(0.2)
        time.sleep(3)
        waiting_bytes = resident_bytes(service)
        answered = step()["answered"]
    finally:
        process.stdin.close()
        process.wait(30)
    if answered:
        print(f"  note: {answered:,} requests did not wait", flush=True)
    # Their places are given up before the service stops.
    deadline = time.monotonic() + 30
    while bench.metric("lockable_waiters") > 0 and time.monotonic() < deadline:
        time.sleep(0.2)
    return {
        "waiters": waiters,
        "bytes_idle": idle_bytes,
        "bytes_waiting": waiting_bytes,
        "bytes_each": (waiting_bytes - idle_bytes) / max(1, waiters),
    }

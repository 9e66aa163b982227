"""One measurement each: a rate, a median, with what it cost the processors."""

import os
import re
import statistics
import subprocess
import tempfile
import time

from servers import ROOT, cpu_seconds, cpu_since, json_line, run, statement

# As the engine sets up its connections (src/db/mod.rs): the planner may not leave the primary key.
ENGINE_SESSION = "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off -c plan_cache_mode=force_generic_plan -c lock_timeout=1s"
WARM_UP_S = 1


def load(bench, shape, address, path, connections, seconds, tokens=1, nice=0, **more):
    """What benches/load says of one run, and the processor time of the service and of PostgreSQL meanwhile, a request."""
    command = [*(["nice", "-n", nice] if nice else []), bench.binaries / "examples" / "load", shape, "--address", address, "--path", path, "--connections", connections,
               "--seconds", seconds, "--warm-up", WARM_UP_S]
    if tokens:
        for token in bench.tokens[:tokens]:
            command += ["--token", token]
    for name, value in more.items():
        command += [f"--{name.replace('_', '-')}", value]
    service, postgres = bench.pids() if "lockable" in bench.servers else (0, [])
    before = cpu_seconds([service, *postgres])
    started = time.monotonic()
    seen = json_line(run(command, timeout=seconds + 120))
    took = time.monotonic() - started
    seen["cores_service"] = cpu_since(before, [service]) / took
    seen["cores_postgres"] = cpu_since(before, bench.pids()[1] if postgres else []) / took
    unexpected = seen["unexpected"]["count"] + seen["broken_connections"]
    if unexpected > 0.001 * max(1, seen["good"]["count"]):
        print(f"  note: {unexpected:,} answers were not what was expected: {seen['statuses']}", flush=True)
    return seen


def bare(bench, connections, seconds):
    return load(bench, "closed", bench.bare(), "/v1/acquire/{new}", connections, seconds)


def each(bench, connections, seconds):
    bench.only_live_locks(10_000)
    return load(bench, "closed", bench.bare(), "/each/acquire/{new}", connections, seconds)


def acquire(bench, connections, seconds, live=10_000):
    if live:
        bench.only_live_locks(live)
    return load(bench, "closed", bench.lockable(), "/v1/acquire/{new}", connections, seconds)


def heartbeat(bench, connections, seconds, live=10_000, among=10_000):
    if live:
        bench.only_live_locks(live)
    return load(bench, "closed", bench.lockable(), "/v1/heartbeat/{of}", connections, seconds, among=among)


def batch(bench, kind, size, seconds):
    """The engine's statement alone, for so many locks at once, over one connection."""
    bench.lockable()
    bench.only_live_locks(10_000)
    account_id, token_id = bench.account()
    url = f"postgres:///lockable?host={bench.data_dir / 'run'}&user=lockable"
    return json_line(run([bench.binaries / "examples" / "batch", kind, "--database-url", url, "--account-id", account_id, "--token-id", token_id,
                          "--size", size, "--seconds", seconds], timeout=seconds + 60))


def etcd(bench, connections, seconds):
    body = ('{"compare":[{"target":"VERSION","key":"{new64}","version":"0"}],'
            '"success":[{"requestPut":{"key":"{new64}","value":"eA=="}}]}')
    return load(bench, "closed", bench.etcd(), "/v3/kv/txn", connections, seconds, tokens=0, method="POST", body=body,
                expect='"succeeded":true')


def redis(bench, connections, seconds):
    """redis-benchmark counts requests, not seconds: about as many as it takes."""
    port, requests, started = bench.redis(), 20_000, time.monotonic()
    while True:
        text = run(["redis-benchmark", "-p", port, "-c", connections, "-n", requests, "-r", 1_000_000_000_000, "--csv",
                    "SET", "lock:__rand_int__", "holder", "NX", "PX", 60000], timeout=seconds * 20 + 60)
        rate = float(text.strip().splitlines()[-1].split('","')[1].strip('"'))
        took = time.monotonic() - started
        if requests > 20_000 or took >= seconds:
            return {"rate": rate}
        requests = max(20_001, int(rate * seconds))


def pgbench(bench, kind, clients, seconds, median=False):
    """The engine's statement, one lock at a time, through pgbench; over the same socket, in the same cluster."""
    bench.lockable()
    bench.only_live_locks(10_000)
    account_id, token_id = bench.account()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        script = os.path.join(folder, f"{kind}.sql")
        with open(script, "w") as file:
            file.write(statement(kind))
        command = [bench.pg_bin / "pgbench", "-n", "-M", "prepared", "-c", clients, "-j", min(2, clients), "-T", seconds, "-f", script,
                   "-D", f"account={account_id}", "-D", f"token={token_id}", "-h", bench.data_dir / "run", "-U", "lockable",
                   *(["-l", "--log-prefix", os.path.join(folder, "log")] if median else []), "lockable"]
        text = run(command, cwd="/", env={**os.environ, "PGOPTIONS": ENGINE_SESSION}, timeout=seconds + 120)
        seen = {"rate": float(re.search(r"tps = ([0-9.]+)", text).group(1))}
        failed = re.search(r"number of failed transactions: ([0-9]+)", text)
        if failed and int(failed.group(1)):
            print(f"  note: {failed.group(1)} transactions of pgbench failed", flush=True)
        if median:
            times = []
            for name in os.listdir(folder):
                if name.startswith("log"):
                    with open(os.path.join(folder, name)) as log:
                        times += [int(line.split()[2]) for line in log]
            seen["good"] = {"p50_us": statistics.median(times)}
    return seen


def wrk(bench, connections, seconds):
    """The same as `acquire`, through the load generator that everybody has."""
    bench.only_live_locks(10_000)
    import base64
    credentials = base64.b64encode(f"{bench.tokens[0]}:".encode()).decode()
    text = run(["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "-s", ROOT / "benches" / "new-names.lua", "-H",
                f"Authorization: Basic {credentials}", f"http://{bench.lockable()}/"], timeout=seconds + 60)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    if bad:
        print(f"  note: wrk saw {bad.group(1)} answers other than 200", flush=True)
    return {"rate": float(re.search(r"Requests/sec:\s+([0-9.]+)", text).group(1))}


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def idle(bench, connections):
    """What a kept connection costs the service that has asked once and is quiet now."""
    bench.stop("bare")
    bench.stop("lockable")
    address = bench.lockable()
    # What the first requests allocate once is not the connections'.
    load(bench, "closed", address, "/v1/heartbeat/{of}", 64, 2)
    time.sleep(2)
    service, _ = bench.pids()
    before = resident_bytes(service)
    command = [bench.binaries / "examples" / "load", "idle", "--address", address, "--path", "/v1/heartbeat/nobody-holds-it",
               "--expect", '"response": false', "--connections", connections, "--token", bench.tokens[0]]
    holder = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        held = json_line(holder.stdout.readline())
        time.sleep(3)
        after = resident_bytes(service)
    finally:
        holder.stdin.close()
        holder.wait(30)
    if held["good"] != connections:
        print(f"  note: of {connections:,} connections {held}", flush=True)
    return {"connections": held["held"], "bytes_before": before, "bytes_with": after,
            "bytes_each": (after - before) / max(1, held["held"])}

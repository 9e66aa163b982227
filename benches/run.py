#!/usr/bin/env python3
"""Measures Lockable beside the systems that people would run instead. Started by script/bench,
which builds the programs.

Each section keeps its numbers in <target>/bench/results.json, so that sections can be measured one
at a time; the report is written from all of them. Contenders take turns within every round, and
every second round goes backwards, so that a machine that slows down or warms up does so for all of
them alike.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time

import measure
import profiler
import report
from servers import ROOT, Bench, run

SECTIONS = ["rates", "single", "statements", "growth", "memory", "overload", "waiting"]
# Measured only when they are named.
EXTRA = ["profile"]


def rounds(count, contenders):
    """Runs every contender `count` times, in turns. Returns each one's measurements, in order."""
    results = {name: [] for name, _ in contenders}
    for number in range(count):
        for name, contender in contenders if number % 2 == 0 else reversed(contenders):
            began = time.monotonic()
            one = contender()
            results[name].append(one)
            line = f"{one['rate']:>9,.0f}/s"
            if one.get("good"):
                line += f"   median {one['good']['p50_us']:,.0f} µs"
            if one.get("good", {}).get("p99_us"):
                line += f", 99 % {one['good']['p99_us']:,.0f} µs"
            print(
                f"  {number + 1}/{count}  {name:<24} {line}   ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    return results


def rates(bench, quick):
    seconds = 3 if quick else 6
    return rounds(
        2 if quick else 5,
        [
            ("bare 64", lambda: measure.bare(bench, 64, seconds)),
            ("bare 256", lambda: measure.bare(bench, 256, seconds)),
            ("pgbench acquire 64", lambda: measure.pgbench(bench, "acquire", 64, seconds)),
            ("acquire 64", lambda: measure.acquire(bench, 64, seconds)),
            ("acquire 256", lambda: measure.acquire(bench, 256, seconds)),
            ("acquire 64 wrk", lambda: measure.wrk(bench, 64, seconds)),
            ("each 64", lambda: measure.each(bench, 64, seconds)),
            ("pgbench heartbeat 64", lambda: measure.pgbench(bench, "heartbeat", 64, seconds)),
            ("heartbeat 64", lambda: measure.heartbeat(bench, 64, seconds)),
            ("heartbeat 256", lambda: measure.heartbeat(bench, 256, seconds)),
            ("release 256", lambda: measure.release(bench, 256, seconds)),
            ("release with ids 256", lambda: measure.release(bench, 256, seconds, with_ids=True)),
            ("etcd 64", lambda: measure.etcd(bench, 64, seconds)),
            ("redis 64", lambda: measure.redis(bench, 64, seconds)),
        ],
    )


def single(bench, quick):
    seconds = 2 if quick else 4
    return rounds(
        2 if quick else 5,
        [
            ("bare 1", lambda: measure.bare(bench, 1, seconds)),
            (
                "pgbench acquire 1",
                lambda: measure.pgbench(bench, "acquire", 1, seconds, median=True),
            ),
            ("acquire 1", lambda: measure.acquire(bench, 1, seconds)),
            (
                "pgbench heartbeat 1",
                lambda: measure.pgbench(bench, "heartbeat", 1, seconds, median=True),
            ),
            ("heartbeat 1", lambda: measure.heartbeat(bench, 1, seconds)),
        ],
    )


def statements(bench, quick):
    """The gain of batching in the database itself."""
    seconds = 1 if quick else 3
    return rounds(
        1 if quick else 3,
        [
            (
                f"{kind} {size}",
                lambda kind=kind, size=size: measure.batch(bench, kind, size, seconds),
            )
            for kind in ("acquire", "acquire-looking", "heartbeat", "release")
            for size in (1, 8, 64, 256, 512)
        ],
    )


def growth(bench, quick):
    """Ten thousand, ten million, ten thousand again."""
    seconds, count = (4, 2) if quick else (10, 4)
    many = 1_000_000 if quick else 10_000_000
    bench.stop("bare")
    bench.lockable()

    def at(live):
        print(f"  making {live:,} live locks", flush=True)
        bench.reset_live_locks(live)
        # Warm: right after a checkpoint every page is logged whole once.
        return rounds(
            count,
            [
                ("acquire 256", lambda: measure.acquire(bench, 256, seconds, live=None)),
                (
                    "heartbeat 256",
                    lambda: measure.heartbeat(bench, 256, seconds, live=None, among=live),
                ),
            ],
        )

    few, full, again = at(10_000), at(many), at(10_000)
    return {"many": many, "few": {name: few[name] + again[name] for name in few}, "full": full}


def memory(bench, quick):
    bench.lockable()
    bench.reset_live_locks(10_000)
    results = [measure.idle(bench, 10_000) for _ in range(1 if quick else 3)]
    for one in results:
        print(
            f"  {one['connections']:,} idle connections: {one['bytes_each']:,.0f} bytes each",
            flush=True,
        )
    return results


def overload(bench, quick):
    """Requests that are due whether or not earlier ones are answered, from four accounts on 12,000
    connections: more than the engine lets wait.
    """
    bench.stop("bare")
    print("  where commits take 5 ms more and 64 locks each at most", flush=True)
    bench.lockable("--largest-batch", "64")
    bench.delay_commits(5000)
    try:
        database = offer_more(bench, quick, "--largest-batch", "64")
    finally:
        bench.delay_commits(0)
    print("  where the processors are the limit, the load generator's among them", flush=True)
    return {"database": database, "processors": offer_more(bench, quick)}


def offer_more(bench, quick, *flags):
    """The rate that is left of a closed loop's when more load is offered. The closed loop runs
    before and after each step; the mean of the two is the best rate.
    """
    seconds = 4 if quick else 6
    socket_address = bench.lockable(*flags)

    def offer(shape, connections, **more):
        bench.reset_live_locks(10_000)
        return measure.load(
            bench,
            shape,
            socket_address,
            "/v1/acquire/{new}",
            connections,
            seconds,
            tokens=4,
            nice=10,
            **more,
        )

    # With small batches and long commits, 256 connections wait rather than work.
    best_of = max((256, 1024), key=lambda connections: offer("closed", connections)["rate"])
    steps = []
    before = offer("closed", best_of)["rate"]
    for times in (0.5, 1, 2, 3) if quick else (0.5, 0.8, 1, 2, 3, 3, 3, 3, 3):
        one = offer("open", 12_000, rate=times * before)
        # The machine may have changed its pace meanwhile.
        after = offer("closed", best_of)["rate"]
        best = (before + after) / 2
        one |= {"times": times, "best": best}
        before = after
        steps.append(one)
        print(
            f"  {times:>4} x best: due {one['due_rate']:>9,.0f}/s  sent "
            f"{one['sent_rate']:>9,.0f}/s  answered "
            f"{one['rate']:>8,.0f}/s ({one['rate'] / best:.2f} of best)  refused "
            f"{one['refused_rate']:>8,.0f}/s in "
            f"{(one['refused']['p50_us'] or 0) / 1000:,.1f} ms  cores {one['cores_service']:.2f} + "
            f"{one['cores_postgres']:.2f}",
            flush=True,
        )
    return {"best": statistics.median(one["best"] for one in steps), "steps": steps}


def waiting(bench, quick):
    """Waiting in line: from the end of a lease to the next waiter's response, hand-overs a second,
    the memory of those who wait, and what a wait costs where there is nothing to wait for.
    """
    seconds = 3 if quick else 4
    bench.stop("bare")

    def line(locks, connections, **more):
        return measure.hand_over(bench, seconds, locks, connections, **more)

    def join(connections, query):
        return measure.acquire(bench, connections, seconds, query=query)

    results = rounds(
        2 if quick else 3,
        [
            # A connection for each holder, too; one whose lease lapses waits again meanwhile.
            ("kept 5 ms, 1 lock", lambda: line(1, 1001, hold_ms=5)),
            ("kept 5 ms, 64 locks", lambda: line(64, 1088, hold_ms=5)),
            ("at once, 1 lock", lambda: line(1, 1001)),
            ("at once, 64 locks", lambda: line(64, 1088)),
            ("lapse, 200 locks", lambda: line(200, 1000, lapse=True, lease_ms=1000)),
            ("no wait 64", lambda: join(64, "")),
            ("wait 64", lambda: join(64, "?wait_ms=1000")),
            ("no wait 256", lambda: join(256, "")),
            ("wait 256", lambda: join(256, "?wait_ms=1000")),
        ],
    )
    results["crowd"] = [measure.crowd(bench, 10_000, 1000) for _ in range(1 if quick else 2)]
    for one in results["crowd"]:
        print(
            f"  {one['waiters']:,.0f} requests that wait: {one['bytes_each']:,.0f} bytes each "
            f"beside the {one['bytes_idle']:,.0f} bytes of the service with idle connections",
            flush=True,
        )
    return results


def profile(bench, quick):
    """The parts of the service's processor time: acquires of new names on 256 connections, sampled
    by perf.
    """
    socket_address, seconds = bench.lockable(), 5 if quick else 15
    bench.reset_live_locks(10_000)
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        load = background.submit(
            measure.load, bench, "closed", socket_address, "/v1/acquire/{new}", 256, seconds + 3
        )
        time.sleep(2)
        kinds, functions, samples = profiler.record(bench.pids()[0], seconds, bench.folder)
        rate = load.result()["rate"]
    for share, kind in kinds:
        print(f"  {share:>6.1%}  {kind}", flush=True)
    return {"kinds": kinds, "functions": functions, "samples": samples, "rate": rate}


def machine(bench):
    """The machine and the versions that were measured."""

    def output_of(command, pick=lambda text: text.strip().splitlines()[0]):
        try:
            return pick(run(command))
        except (OSError, RuntimeError, IndexError):
            return "unknown"

    cpu = dict(line.split(":", 1) for line in output_of(["lscpu"], str).splitlines() if ":" in line)
    disk = output_of(["findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", bench.folder])
    flush = output_of(
        [bench.pg_bin / "pg_test_fsync", "-s", "1", "-f", bench.folder / "fsync-test"],
        lambda text: next(
            line.split()[1] for line in text.splitlines() if line.strip().startswith("fdatasync")
        ),
    )
    memory_kb = int(
        next(line.split()[1] for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    )
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": " × ".join(
            [cpu.get("CPU(s)", "?").strip(), cpu.get("Model name", "unknown").strip()]
        ),
        "virtual": cpu.get("Hypervisor vendor", "").strip(),
        "memory": f"{memory_kb / 1024 / 1024:.0f} GiB",
        "kernel": os.uname().release,
        "disk": " ".join(disk.split()),
        "flushes": flush,
        "load": os.getloadavg()[0],
        "versions": {
            "Lockable": output_of([bench.binaries / "lockable", "--version"])
            + " "
            + output_of(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]),
            "PostgreSQL": output_of([bench.pg_bin / "postgres", "--version"]),
            "etcd": output_of(["etcd", "--version"]),
            "Redis": output_of(
                ["redis-server", "--version"], lambda text: text.split("sha=")[0].strip()
            ),
            "wrk": subprocess.run(
                ["wrk", "-v"], capture_output=True, text=True
            ).stdout.splitlines()[0]
            if shutil.which("wrk")
            else "none",
            "rustc": output_of(["rustc", "--version"]),
        },
    }


def main():
    parser = argparse.ArgumentParser(
        prog="script/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="section",
        help=f"of {', '.join(SECTIONS)} [all of these]; {', '.join(EXTRA)}; "
        "report writes it down again",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a look in a few minutes; docs/ stays as it is"
    )
    parser.add_argument("--no-build", action="store_true", help="measure what was built before")
    parser.add_argument(
        "--place", default="/var/tmp", help="folder on the disk to measure on [%(default)s]"
    )
    parser.add_argument("--target", default="target", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sections = options.sections or SECTIONS
    unknown = set(sections) - {*SECTIONS, *EXTRA, "report"}
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    out = (ROOT / options.target).resolve() / "bench"
    out.mkdir(parents=True, exist_ok=True)
    file = out / ("quick.json" if options.quick else "results.json")
    results = json.loads(file.read_text()) if file.exists() else {}
    sections = [section for section in SECTIONS + EXTRA if section in sections]
    if sections:
        if os.getloadavg()[0] > 0.5 * os.cpu_count():
            print(
                f"note: this machine is busy with other things (load {os.getloadavg()[0]:.1f}): "
                "the numbers will be worse than it can do"
            )
        with Bench(options.target, options.place) as bench:
            results["machine"] = machine(bench)
            bench.lockable()
            for section in sections:
                print(f"{section} ({datetime.datetime.now():%H:%M:%S})", flush=True)
                results[section] = globals()[section](bench, options.quick)
                results.setdefault("dates", {})[section] = results["machine"]["date"]
                file.write_text(json.dumps(results))
                for other in ("etcd", "redis"):
                    bench.stop(other)
    report.write(results, out if options.quick else ROOT / "docs")


if __name__ == "__main__":
    # So that the servers are stopped and their folder is deleted then too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(
            "script/bench: stopped; what was measured is kept, name the remaining sections to go on"
        )
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"script/bench: {error}")

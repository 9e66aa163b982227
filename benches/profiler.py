"""The parts of the service's processor time under load: samples of `perf`, sorted by the functions
on their stacks.
"""

import re
import subprocess

from servers import run

# The first kind that matches a function of a stack, from the innermost outwards, names the sample.
KINDS = [
    ("the log line", r"tracing_subscriber::|tracing_core::field|lockable::request"),
    ("counting: metrics", r"^metrics(_exporter_prometheus|_util)?::|RouteMetrics"),
    (
        "authentication: credentials, digest, cache, rate",
        r"credentials::|tokens::verifier|RequestRates|api::auth",
    ),
    ("the engine: queue, batches, outcomes", r"lockable::locks::engine::(?!statements)"),
    ("the statement: sqlx, encoding and decoding", r"sqlx|lockable::locks::engine::statements"),
    ("parsing and answering: api::v1", r"lockable::api"),
    ("layers: edge, guard", r"lockable::transport"),
    ("routing: axum, tower", r"^<?(axum|matchit|tower)(_core)?::"),
    ("HTTP/1: hyper", r"^<?(hyper|hyper_util|http|httparse|axum_server)::"),
    ("the runtime: tokio, timers, waking, waiting", r"tokio::|epoll|schedule"),
]
WEIGHT = re.compile(r"^\S.*?:\s+(\d+)\s")


def innermost(stack):
    return stack[0] if stack else ""


def sort(script):
    """Shares by kind, and the innermost functions that cost most, of `perf script`'s text."""
    kinds, inner, total = {}, {}, 0
    for block in script.split("\n\n"):
        lines = block.strip().splitlines()
        if len(lines) < 2:
            continue
        stack = [
            re.sub(r"\+0x[0-9a-f]+$", "", line.split(None, 1)[1].rsplit(" (", 1)[0])
            if len(line.split(None, 1)) > 1
            else ""
            for line in lines[1:]
        ]
        libraries = [line.rsplit("(", 1)[-1] for line in lines[1:]]
        total += 1
        function = innermost(stack)
        inner[function] = inner.get(function, 0) + 1
        kind = None
        if (
            re.search(
                r"malloc|^_int_|^free|cfree|realloc|unlink_chunk|consolidate|tcache", function
            )
            and "libc" in libraries[0]
        ):
            kind = "the allocator"
        elif any(
            "tcp_" in name or "sock_" in name or "inet_" in name or "unix_stream" in name
            for name in stack
        ):
            kind = "the kernel: sockets"
        if kind is None:
            kind = next(
                (
                    name
                    for name, pattern in KINDS
                    for function in [next((one for one in stack if re.search(pattern, one)), None)]
                    if function
                ),
                None,
            )
        if kind is None and "kernel" in libraries[0]:
            kind = "the kernel: everything else"
        kinds[kind or "other"] = kinds.get(kind or "other", 0) + 1
    by_share = lambda counts: sorted(
        ((count / max(1, total), name) for name, count in counts.items()), reverse=True
    )
    return by_share(kinds), by_share(inner)[:12], total


def record(pid, seconds, folder):
    """Samples a process while something else keeps it busy."""
    data = folder / "perf.data"
    run(
        [
            "perf",
            "record",
            "-q",
            "-e",
            "cpu-clock",
            "-F",
            "499",
            "--call-graph",
            "dwarf,16384",
            "-p",
            pid,
            "-o",
            data,
            "--",
            "sleep",
            seconds,
        ]
    )
    text = subprocess.run(
        ["perf", "script", "--no-inline", "-i", str(data), "-F", "comm,ip,sym,dso,event,period"],
        capture_output=True,
        text=True,
        timeout=600,
    ).stdout
    data.unlink()
    return sort(text)

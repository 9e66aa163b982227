"""Writes the numbers in performance.md (the words around them are people's), and the plots in images/.

Run by itself, it draws the README's plot, images/rates.svg, from the numbers in docs/performance.md."""

import pathlib
import re
import statistics

from servers import ROOT

BEGIN, END = "<!-- script/bench writes from here -->", "<!-- script/bench writes to here -->"


def rate(results, name, section="rates"):
    """Median, least and most of a contender's rates; None if it was not measured."""
    seen = [one["rate"] for one in results.get(section, {}).get(name, [])]
    return (statistics.median(seen), min(seen), max(seen)) if seen else None


def ratio(results, name, other, section="rates"):
    """Of each round's rates, since both contenders met the same minute of the machine: median, least, most."""
    pairs = zip(results.get(section, {}).get(name, []), results.get(section, {}).get(other, []))
    seen = [one["rate"] / two["rate"] for one, two in pairs]
    return (statistics.median(seen), min(seen), max(seen)) if seen else None


def spread(three, form):
    return f"{three[0]:{form}} ({three[1]:{form}} to {three[2]:{form}})" if three else "not measured"


def median_us(results, name):
    return statistics.median(one["good"]["p50_us"] for one in results["single"][name])


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "| --- " * len(head) + "|",
                      *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


CONTENDERS = [
    ("bare 64", "the HTTP side alone, with authentication, no database; 64 connections"),
    ("bare 256", "the same, 256 connections"),
    ("each 64", "acquire, every name new: a transaction for each request, 64 connections (not how Lockable works)"),
    ("acquire 64", "**acquire, every name new, 64 connections**"),
    ("acquire 256", "**acquire, every name new, 256 connections**"),
    ("acquire 64 wrk", "acquire, every name new, 64 connections, measured with wrk"),
    ("heartbeat 64", "**heartbeat, 64 connections**"),
    ("heartbeat 256", "**heartbeat, 256 connections**"),
    ("pgbench acquire 64", "`pgbench` with the same acquire, one lock at a time, prepared, 64 clients"),
    ("pgbench heartbeat 64", "`pgbench` with the same heartbeat, likewise"),
    ("etcd 64", "etcd over its HTTP gateway, create-if-absent transaction, 64 connections"),
    ("redis 64", "Redis `SET NX PX`, `appendfsync always`, its own benchmark and protocol, 64 connections"),
]


def claims(results):
    """The rows of the design's table of what must be: what, measured, must be, hoped for."""
    rows = []

    def add(what, measured, must, hoped, value, at_least=True):
        def met(bound):
            return (value >= bound) if at_least else (value <= bound)
        if hoped and met(hoped):
            verdict = "hoped for"
        elif must:
            verdict = "yes" if met(must) else "**no**"
        else:
            verdict = "not yet" if hoped else ""
        rows.append([what, measured, f"{must:g}" if must else "", f"{hoped:g}" if hoped else "", verdict])

    if "rates" in results:
        for what, name, other, must, hoped in [
            ("acquire, 256 connections, in pgbench with the same statement", "acquire 256", "pgbench acquire 64", 2, None),
            ("acquire, 256 connections, in etcd over HTTP", "acquire 256", "etcd 64", None, None),
            ("acquire, 256 connections, in Redis with `appendfsync always`", "acquire 256", "redis 64", None, 1),
            ("heartbeat, 256 connections, in pgbench with the same statement", "heartbeat 256", "pgbench heartbeat 64", 2, None),
            ("heartbeat, 256 connections, in the HTTP side alone", "heartbeat 256", "bare 256", None, 0.667),
        ]:
            three = ratio(results, name, other)
            add(what, spread(three, ".2f"), must, hoped, three[0])
    if "single" in results:
        for kind in ("acquire", "heartbeat"):
            value = median_us(results, f"{kind} 1") / (median_us(results, f"pgbench {kind} 1") + median_us(results, "bare 1"))
            add(f"one client, one {kind} at a time: median, in bare statement + HTTP side alone (at most)", f"{value:.2f}", 1.6, 1.25,
                value, at_least=False)
    if "growth" in results:
        for kind in ("acquire 256", "heartbeat 256"):
            few = statistics.median(one["rate"] for one in results["growth"]["few"][kind])
            full = statistics.median(one["rate"] for one in results["growth"]["full"][kind])
            add(f"{kind.split()[0]} with {results['growth']['many']:,} live locks, in the rate with 10,000", f"{full / few:.2f}", 0.7, 0.9,
                full / few)
    for limit, where in [("database", "the database is the limit"), ("processors", "the processors are, the load generator's among them")]:
        if limit in results.get("overload", {}):
            seen = results["overload"][limit]
            left = [one["rate"] / one["best"] for one in seen["steps"] if one["times"] == 3]
            value = statistics.median(left)
            add(f"three times more load than it can carry: still answered, in its best rate; {where}",
                f"{value:.2f} ({min(left):.2f} to {max(left):.2f})", 0.9, 0.95, value)
    return table(["what", "measured", "must be", "hoped for", "reached"], rows)


def numbers(results):
    parts = []
    if machine := results.get("machine"):
        versions = "; ".join(f"{name}: {version}" for name, version in machine["versions"].items())
        parts.append(f"Measured {machine['date']} on {machine['processor']}{' (virtual, ' + machine['virtual'] + ')' if machine['virtual'] else ''}, "
                     f"{machine['memory']}, Linux {machine['kernel']}, {machine['disk']} with {machine['flushes']} `fdatasync` a second "
                     f"(`pg_test_fsync`). The service, PostgreSQL and the load generator share the processors.\n\n{versions}.\n")
    dates = results.get("dates", {})
    if len(set(dates.values())) > 1:
        parts.append("Not all of one run: " + ", ".join(f"{section} {date}" for section, date in dates.items()) + ".\n")
    parts.append("### The claims\n\n" + claims(results))
    if "rates" in results:
        count = len(next(iter(results["rates"].values())))
        rows = []
        for name, words in CONTENDERS:
            ones = results["rates"].get(name)
            if not ones:
                continue
            p50 = statistics.median(one["good"]["p50_us"] for one in ones) / 1000 if ones[0].get("good") else None
            p99 = statistics.median(one["good"]["p99_us"] for one in ones) / 1000 if ones[0].get("good") else None
            cores = (f"{statistics.median(one['cores_service'] for one in ones):.2f} + {statistics.median(one['cores_postgres'] for one in ones):.2f}"
                     if name.split()[0] in ("acquire", "heartbeat") and "cores_service" in ones[0] else "")
            rows.append([words, spread(rate(results, name), ",.0f"), f"{p50:.2f} / {p99:.2f}" if p50 else "", cores])
        parts.append(f"### Rates\n\nRequests a second, median of {count} rounds (least to most).\n\n"
                     + table(["", "a second", "ms, median / 99 %", "cores: service + PostgreSQL"], rows))
        parts.append("![Requests a second](images/performance.svg)\n")
    if "single" in results:
        rows = [[words, f"{median_us(results, name):,.0f}"] for name, words in [
            ("bare 1", "the HTTP side alone"), ("pgbench acquire 1", "the bare statement, acquire"), ("acquire 1", "**acquire**"),
            ("pgbench heartbeat 1", "the bare statement, heartbeat"), ("heartbeat 1", "**heartbeat**")]]
        parts.append("### One request at a time\n\nOne connection, durable, every acquire a new name.\n\n" + table(["", "median, µs"], rows))
    if "statements" in results:
        rows = []
        for size in (1, 8, 64, 256, 512):
            cells = []
            for kind in ("acquire", "acquire-looking", "heartbeat", "release"):
                ones = results["statements"][f"{kind} {size}"]
                cells += [f"{statistics.median(one['rate'] for one in ones):,.0f}", f"{statistics.median(one['backend_us'] for one in ones):.1f}"]
            rows.append([str(size), *cells])
        parts.append("### The statements alone\n\nOne connection, one batch after the other, durable; locks a second, and microseconds of the backend's processor for each lock.\n\n"
                     + table(["locks in a batch", "acquire, new names", "µs", "the same by the statement that looks first", "µs", "heartbeat", "µs", "release", "µs"], rows))
    if "growth" in results:
        growth, rows = results["growth"], []
        for kind in ("acquire 256", "heartbeat 256"):
            few, full = ([one["rate"] for one in growth[side][kind]] for side in ("few", "full"))
            rows.append([f"{kind.split()[0]}, 256 connections", spread((statistics.median(few), min(few), max(few)), ",.0f"),
                         spread((statistics.median(full), min(full), max(full)), ",.0f"), " ".join(f"{one:,.0f}" for one in full)])
        parts.append(f"### Growth\n\nRequests a second, on random locks of all that live.\n\n"
                     + table(["", "10,000 live locks", f"{growth['many']:,} live locks", "round by round"], rows))
    if "memory" in results:
        each = [one["bytes_each"] for one in results["memory"]]
        parts.append(f"### Memory\n\n{results['memory'][0]['connections']:,} kept connections that have asked once and are quiet: "
                     f"{statistics.median(each):,.0f} bytes of the service's memory each ({min(each):,.0f} to {max(each):,.0f}; resident set, "
                     f"without the kernel's socket buffers).\n")
    if "overload" in results:
        parts.append("### Overload\n\nRequests due at a fixed rate, whatever becomes of the earlier ones, on 12,000 connections of four accounts: more than the engine lets wait. "
                     "The load generator runs at a lower priority (nice 10) here, so that what it offers pushes nobody aside. "
                     "An answer's latency counts from the instant that its request was due, a refusal's from when it was sent.\n")
        for limit, where in [("database", "**The database is the limit**: every commit takes 5 ms longer, as with a synchronous standby that far away, and is of 64 locks at most."),
                             ("processors", "**The processors are the limit**, and the load generator's share of them grows with what it offers: the default settings.")]:
            seen = results["overload"].get(limit)
            if not seen:
                continue
            rows = []
            for one in seen["steps"]:
                ms = [f"{(one[kind][which] or 0) / 1000:,.1f}" if one[kind]["count"] else "" for kind in ("good", "refused") for which in ("p50_us", "p99_us")]
                rows.append([f"{one['times']:g} × best", f"{one['due_rate']:,.0f}", f"{one['sent_rate']:,.0f}", f"{one['rate']:,.0f}",
                             f"{one['rate'] / one['best']:.2f}", f"{one['refused_rate']:,.0f}", f"{ms[0]} / {ms[1]}", f"{ms[2]} / {ms[3]}"])
            parts.append(f"{where} Before and after each, a closed loop without any pause was answered {min(one['best'] for one in seen['steps']):,.0f} to {max(one['best'] for one in seen['steps']):,.0f} a second, the mean of the two: its best.\n\n"
                         + table(["offered", "due a second", "sent a second", "answered a second", "of best", "refused (503) a second",
                                  "answered in ms, median / 99 %", "refused in ms, median / 99 %"], rows))
    if "profile" in results:
        seen = results["profile"]
        parts.append(f"### Where the service's processor time goes\n\nAcquires of new names on 256 connections, {seen['samples']:,} samples of `perf`: by what "
                     f"the stack passed through, and the functions that cost most themselves.\n\n"
                     + table(["part", "share"], [[kind, f"{share:.0%}"] for share, kind in seen["kinds"] if share >= 0.005]) + "\n"
                     + table(["function", "share"], [[f"`{name}`", f"{share:.1%}"] for share, name in seen["functions"]]))
    return "\n".join(parts)


STYLE = """text{font:13px system-ui,sans-serif;fill:#1d2733}.own{font-weight:600}.n{fill:#51606f}
.a{fill:#2f6fde}.b{fill:#a9b4c0}.w{stroke:#1d2733;stroke-width:1.5}rect.p{fill:#fff}
@media(prefers-color-scheme:dark){text{fill:#e6ebf1}.n{fill:#a9b4c0}.a{fill:#6ea0ff}.b{fill:#5b6876}
.w{stroke:#e6ebf1}rect.p{fill:#11161c}}""".replace("\n", "")


def bars(title, rows, left):
    """Horizontal bars with their spread. Colours follow the reader's light or dark page.

    rows: label, whether it is ours, (median, least, most)."""
    width, line, top = 960, 30, 46
    scale = (width - left - 110) / max(most for _, _, (_, _, most) in rows)
    height = top + line * len(rows) + 16
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}" role="img" aria-label="{title}">',
           f"<style>{STYLE}</style>",
           f'<rect class="p" width="{width}" height="{height}"/>',
           f'<text x="14" y="26" style="font-size:15px;font-weight:600">{title}</text>']
    for index, (label, own, (median, least, most)) in enumerate(rows):
        y = top + line * index
        x1, x2 = left + least * scale, left + most * scale
        out.append(
            f'<text class="{"own" if own else ""}" x="{left - 10}" y="{y + 15}" text-anchor="end">{label}</text>'
            f'<rect class="{"a" if own else "b"}" x="{left}" y="{y}" width="{median * scale:.1f}" height="20" rx="2"/>'
            f'<line class="w" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y + 10}" y2="{y + 10}"/>'
            f'<text class="n" x="{x2 + 8:.1f}" y="{y + 15}">{median:,.0f}</text>')
    return "\n".join(out) + "\n</svg>\n"


def svg(results):
    """All rates of a run: images/performance.svg."""
    rows = []
    for name, words in CONTENDERS:
        three = rate(results, name)
        if not three:
            continue
        own = words.startswith("**")
        words = re.sub(r"[*`]|, its own benchmark and protocol| \(not how Lockable works\)"
                       r"|, one lock at a time, prepared", "", words)
        for long, short in [
            ("over its HTTP gateway, create-if-absent transaction", "over HTTP, create if absent"),
            (", every name new: a transaction for each request", ", a transaction for each request"),
            ("the HTTP side alone, with authentication, no database; ", "HTTP side alone, no database, "),
            ("the same, 256", "HTTP side alone, no database, 256"),
        ]:
            words = words.replace(long, short)
        rows.append((words, own, three))
    return bars("Requests a second (median, and least to most, of the rounds of one run)", rows, left=470)


# The rows of the README's plot, and what they are called there.
SHORT = [
    ("acquire 256", "Lockable: new locks, 256 connections"),
    ("heartbeat 256", "Lockable: heartbeats, 256 connections"),
    ("pgbench acquire 64", "pgbench: the same statement, 64 clients"),
    ("etcd 64", "etcd over HTTP, 64 connections"),
    ("redis 64", "Redis, appendfsync always, 64 connections"),
]


def rates_of(page):
    """The rates that stand in performance.md, by contender: median, least, most."""
    words = {long: name for name, long in CONTENDERS}
    found = {}
    for row in page.splitlines():
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) > 3 and cells[1] in words:
            numbers = re.findall(r"[\d,]+", cells[2])
            if len(numbers) == 3:
                found[words[cells[1]]] = tuple(int(number.replace(",", "")) for number in numbers)
    return found


def short_svg(page):
    """The README's plot, from the numbers in performance.md: images/rates.svg."""
    rates = rates_of(page)
    rows = [(label, label.startswith("Lockable"), rates[name]) for name, label in SHORT if name in rates]
    return bars("Durable answers a second, on two processors shared with the database and the load", rows, left=310)


def draw_short(folder):
    (folder / "images" / "rates.svg").write_text(short_svg((folder / "performance.md").read_text()))


def write(results, folder):
    """Puts the numbers between their marks, and leaves every other word as it is."""
    folder = pathlib.Path(folder)
    file, kept = folder / "performance.md", ROOT / "docs" / "performance.md"
    text = kept.read_text() if kept.exists() else f"# How fast\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    file.write_text(before + BEGIN + "\n\n" + numbers(results) + "\n" + END + rest.split(END, 1)[1])
    print(f"wrote {file}")
    if "rates" in results:
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / "performance.svg").write_text(svg(results))
        draw_short(folder)


if __name__ == "__main__":
    # Draws the README's plot again from the numbers that stand in docs/performance.md.
    draw_short(ROOT / "docs")

"""Writes the numbers in performance.md (people write the words around them) and the plots.

Run by itself, it draws the README's plot, images/rates.svg, from the numbers in performance.md.
"""

import math
import pathlib
import re
import statistics
import textwrap

from servers import ROOT

BEGIN = "<!-- script/bench writes from here -->"
END = "<!-- script/bench writes to here -->"

CONTENDERS = [
    ("bare 64", "the HTTP side alone, with authentication, no database; 64 connections"),
    ("bare 256", "the same, 256 connections"),
    ("each 64", "acquire, every name new: a transaction for each request, 64 connections"
                " (not how Lockable works)"),
    ("acquire 64", "**acquire, every name new, 64 connections**"),
    ("acquire 256", "**acquire, every name new, 256 connections**"),
    ("acquire 64 wrk", "acquire, every name new, 64 connections, measured with wrk"),
    ("heartbeat 64", "**heartbeat, 64 connections**"),
    ("heartbeat 256", "**heartbeat, 256 connections**"),
    ("release 256", "**release, 256 connections**"),
    ("release with ids 256", "**release of leases that need their id, 256 connections**"),
    ("pgbench acquire 64",
     "`pgbench` with the same acquire, one lock at a time, prepared, 64 clients"),
    ("pgbench heartbeat 64", "`pgbench` with the same heartbeat, likewise"),
    ("etcd 64", "etcd over its HTTP gateway, create-if-absent transaction, 64 connections"),
    ("redis 64", "Redis `SET NX PX`, `appendfsync always`, its own benchmark and protocol,"
                 " 64 connections"),
]


def spread_of(values):
    """Median, least, most; None if there are no values."""
    return (statistics.median(values), min(values), max(values)) if values else None


def rate(results, name, section="rates"):
    """Median, least and most of a contender's rates; None if it was not measured."""
    return spread_of([one["rate"] for one in results.get(section, {}).get(name, [])])


def ratio(results, name, other, section="rates"):
    """Median, least and most of the ratio of two contenders, taken within each round."""
    measured = results.get(section, {})
    pairs = zip(measured.get(name, []), measured.get(other, []))
    return spread_of([one["rate"] / two["rate"] for one, two in pairs])


def median(ones, read):
    return statistics.median(read(one) for one in ones)


def median_us(results, name):
    return median(results["single"][name], lambda one: one["good"]["p50_us"])


def spread(three, form):
    if not three:
        return "not measured"
    return f"{three[0]:{form}} ({three[1]:{form}} to {three[2]:{form}})"


def prose(text):
    """A paragraph, wrapped as the rest of the page."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False) + "\n"


def table(head, rows):
    lines = [head, *rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([lines[0], "| --- " * len(head) + "|", *lines[1:]]) + "\n"


def machine(results):
    seen = results["machine"]
    virtual = f" (virtual, {seen['virtual']})" if seen["virtual"] else ""
    versions = "; ".join(f"{name}: {version}" for name, version in seen["versions"].items())
    return (
        prose(f"Measured {seen['date']} on {seen['processor']}{virtual}, {seen['memory']}, "
              f"Linux {seen['kernel']}, {seen['disk']} with {seen['flushes']} `fdatasync` a second "
              "(`pg_test_fsync`). The service, PostgreSQL and the load generator share the "
              "processors.")
        + "\n" + prose(f"{versions}."))


def dates(results):
    seen = results.get("dates", {})
    if len(set(seen.values())) <= 1:
        return None
    each = ", ".join(f"{section} {date}" for section, date in seen.items())
    return prose(f"Not all of one run: {each}.")


def claims(results):
    """Rows of what must be reached and what is hoped for, beside what was measured."""
    rows = []

    def add(what, measured, must, hoped, value, at_least=True):
        def met(bound):
            return value >= bound if at_least else value <= bound

        if hoped and met(hoped):
            reached = "hoped for"
        elif must:
            reached = "yes" if met(must) else "**no**"
        else:
            reached = "not yet" if hoped else ""
        bounds = [f"{bound:g}" if bound else "" for bound in (must, hoped)]
        rows.append([what, measured, *bounds, reached])

    if "rates" in results:
        for what, name, other, must, hoped in [
            ("acquire, 256 connections, in pgbench with the same statement",
             "acquire 256", "pgbench acquire 64", 2, None),
            ("acquire, 256 connections, in etcd over HTTP",
             "acquire 256", "etcd 64", None, None),
            ("acquire, 256 connections, in Redis with `appendfsync always`",
             "acquire 256", "redis 64", None, 1),
            ("heartbeat, 256 connections, in pgbench with the same statement",
             "heartbeat 256", "pgbench heartbeat 64", 2, None),
            ("heartbeat, 256 connections, in the HTTP side alone",
             "heartbeat 256", "bare 256", None, 0.667),
        ]:
            three = ratio(results, name, other)
            add(what, spread(three, ".2f"), must, hoped, three[0])
    if "single" in results:
        for kind in ("acquire", "heartbeat"):
            parts = median_us(results, f"pgbench {kind} 1") + median_us(results, "bare 1")
            value = median_us(results, f"{kind} 1") / parts
            add(f"one client, one {kind} at a time: median, in bare statement + HTTP side alone "
                "(at most)", f"{value:.2f}", 1.6, 1.25, value, at_least=False)
    if "growth" in results:
        for kind in ("acquire 256", "heartbeat 256"):
            growth = results["growth"]
            few = median(growth["few"][kind], lambda one: one["rate"])
            value = median(growth["full"][kind], lambda one: one["rate"]) / few
            add(f"{kind.split()[0]} with {growth['many']:,} live locks, in the rate with 10,000",
                f"{value:.2f}", 0.7, 0.9, value)
    for limit, where in [
        ("database", "the database is the limit"),
        ("processors", "the processors are, the load generator's among them"),
    ]:
        if limit in results.get("overload", {}):
            steps = results["overload"][limit]["steps"]
            left = spread_of([one["rate"] / one["best"] for one in steps if one["times"] == 3])
            add("three times more load than it can carry: still answered, in its best rate; "
                f"{where}", spread(left, ".2f"), 0.9, 0.95, left[0])
    waits = results.get("waiting", {})
    for what, name, which, must, hoped in [
        ("hand-over with 1,000 waiting, release to response, ms at the 99th percentile (at most)",
         "kept 5 ms, 1 lock", "p99", 10, 3),
        ("expiry to the next waiter's response, ms at the 99th percentile (at most)",
         "lapse, 200 locks", "p99", 50, 10),
    ]:
        if waits:
            three = ms_of(waits[name], which)
            add(what, spread(three, ".2f"), must, hoped, three[0], at_least=False)
    for locks, must, hoped in [("1 lock", 500, 1000), ("64 locks", 3000, 6000)]:
        if waits:
            three = rate(results, f"at once, {locks}", "waiting")
            add(f"hand-overs a second over HTTP, {locks}", spread(three, ",.0f"), must, hoped,
                three[0])
    if waits:
        three = spread_of([one["bytes_each"] for one in waits["crowd"]])
        add("memory of a request that waits, beside that of its connection, bytes (at most)",
            spread(three, ",.0f"), 4096, 2048, three[0], at_least=False)
    return rows


def claims_table(results, kept):
    """The claims, with the rows of the page whose sections were not measured again."""
    new = {row[0]: row for row in claims(results)}
    old = [[cell.strip() for cell in line.split("|")[1:-1]]
           for line in kept.get(CLAIMS, "").splitlines()[4:] if line.startswith("|")]
    rows = [new.pop(row[0], row) for row in old] + list(new.values())
    head = ["what", "measured", "must be", "hoped for", "reached"]
    return f"### {CLAIMS}\n\n" + table(head, rows)


def rates(results):
    rows = []
    for name, words in CONTENDERS:
        ones = results["rates"].get(name)
        if not ones:
            continue
        latency = cores = ""
        if ones[0].get("good"):
            p50, p99 = (median(ones, lambda one: one["good"][which] / 1000)
                        for which in ("p50_us", "p99_us"))
            latency = f"{p50:.2f} / {p99:.2f}"
        if name.split()[0] in ("acquire", "heartbeat") and "cores_service" in ones[0]:
            service = median(ones, lambda one: one["cores_service"])
            cores = f"{service:.2f} + {median(ones, lambda one: one['cores_postgres']):.2f}"
        rows.append([words, spread(rate(results, name), ",.0f"), latency, cores])
    count = len(next(iter(results["rates"].values())))
    return (
        f"### Rates\n\nRequests a second, median of {count} rounds (least to most).\n\n"
        + table(["", "a second", "ms, median / 99 %", "cores: service + PostgreSQL"], rows)
        + "\n![Requests a second](images/performance.svg)\n")


def single(results):
    rows = [[words, f"{median_us(results, name):,.0f}"] for name, words in [
        ("bare 1", "the HTTP side alone"),
        ("pgbench acquire 1", "the bare statement, acquire"),
        ("acquire 1", "**acquire**"),
        ("pgbench heartbeat 1", "the bare statement, heartbeat"),
        ("heartbeat 1", "**heartbeat**"),
    ]]
    return ("### One request at a time\n\nOne connection, durable, every acquire a new name.\n\n"
            + table(["", "median, µs"], rows))


def statements(results):
    rows = []
    for size in (1, 8, 64, 256, 512):
        cells = []
        for kind in ("acquire", "acquire-looking", "heartbeat", "release"):
            ones = results["statements"][f"{kind} {size}"]
            cells += [f"{median(ones, lambda one: one['rate']):,.0f}",
                      f"{median(ones, lambda one: one['backend_us']):.1f}"]
        rows.append([str(size), *cells])
    head = ["locks in a batch", "acquire, new names", "µs",
            "the same by the general statement", "µs", "heartbeat", "µs", "release", "µs"]
    return ("### The statements alone\n\n"
            + prose("One connection, one batch after the other, durable; locks a second, and "
                    "microseconds of the backend's processor for each lock.")
            + "\n" + table(head, rows))


def growth(results):
    seen, rows = results["growth"], []
    for kind in ("acquire 256", "heartbeat 256"):
        few, full = ([one["rate"] for one in seen[side][kind]] for side in ("few", "full"))
        rows.append([f"{kind.split()[0]}, 256 connections", spread(spread_of(few), ",.0f"),
                     spread(spread_of(full), ",.0f"), " ".join(f"{one:,.0f}" for one in full)])
    head = ["", "10,000 live locks", f"{seen['many']:,} live locks", "round by round"]
    return ("### Growth\n\nRequests a second, on random locks of all that live.\n\n"
            + table(head, rows))


def memory(results):
    ones = results["memory"]
    middle, least, most = spread_of([one["bytes_each"] for one in ones])
    return "### Memory\n\n" + prose(
        f"{ones[0]['connections']:,} kept connections that have sent one request and are quiet: "
        f"{middle:,.0f} bytes of the service's memory each ({least:,.0f} to {most:,.0f}; resident "
        "set, without the kernel's socket buffers).")


def overload(results):
    parts = ["### Overload\n", prose(
        "Requests due at a fixed rate, whatever becomes of the earlier ones, on 12,000 connections "
        "of four accounts: more than the engine lets wait. The load generator runs at a lower "
        "priority (nice 10) here, so that what it offers pushes nobody aside. A response's latency "
        "counts from the instant that its request was due, a refusal's from when it was sent.")]
    for limit, where in [
        ("database", "**The database is the limit**: every commit takes 5 ms longer, as with a "
                     "synchronous standby that far away, and is of 64 locks at most."),
        ("processors", "**The processors are the limit**, and the load generator's share of them "
                       "grows with what it offers: the default settings."),
    ]:
        steps = results["overload"].get(limit, {}).get("steps")
        if not steps:
            continue
        bests = [one["best"] for one in steps]
        head = ["offered", "due a second", "sent a second", "answered a second", "of best",
                "refused (503) a second", "answered in ms, median / 99 %",
                "refused in ms, median / 99 %"]
        parts.append(
            prose(f"{where} Before and after each, a closed loop without any pause was answered "
                  f"{min(bests):,.0f} to {max(bests):,.0f} a second, the mean of the two: its "
                  "best.")
            + "\n" + table(head, [overload_row(one) for one in steps]))
    return "\n".join(parts)


def overload_row(one):
    def ms(kind, which):
        return f"{(one[kind][which] or 0) / 1000:,.1f}" if one[kind]["count"] else ""

    return [f"{one['times']:g} × best", f"{one['due_rate']:,.0f}", f"{one['sent_rate']:,.0f}",
            f"{one['rate']:,.0f}", f"{one['rate'] / one['best']:.2f}",
            f"{one['refused_rate']:,.0f}",
            *(f"{ms(kind, 'p50_us')} / {ms(kind, 'p99_us')}" for kind in ("good", "refused"))]


def profile(results):
    seen = results["profile"]
    kinds = [[kind, f"{share:.0%}"] for share, kind in seen["kinds"] if share >= 0.005]
    functions = [[f"`{name}`", f"{share:.1%}"] for share, name in seen["functions"]]
    return ("### Where the service's processor time goes\n\n"
            + prose(f"Acquires of new names on 256 connections, {seen['samples']:,} samples of "
                    "`perf`: by what the stack passed through, and the functions that cost most "
                    "themselves.")
            + "\n" + table(["part", "share"], kinds)
            + "\n" + table(["function", "share"], functions))


# The hand-overs of the section `waiting`, and what the page calls them.
HAND_OVERS = [
    ("kept 5 ms, 1 lock", "released after 5 ms; 1 lock, 1,000 waiting"),
    ("kept 5 ms, 64 locks", "released after 5 ms; 64 locks, 1,024 waiting"),
    ("at once, 1 lock", "released at once; 1 lock, 1,000 waiting"),
    ("at once, 64 locks", "released at once; 64 locks, 1,024 waiting"),
    ("lapse, 200 locks", "never released, leases of a second; 200 locks, 1,000 waiting"),
]


def ms_of(ones, quantile, which="good"):
    """Median, least and most of the rounds of a quantile, milliseconds."""
    return spread_of([one[which][f"{quantile}_us"] / 1000 for one in ones])


def waiting(results):
    seen, rows = results["waiting"], []
    for name, words in HAND_OVERS:
        ones = seen[name]
        cores = " + ".join(f"{median(ones, lambda one: one[which]):.2f}"
                           for which in ("cores_service", "cores_postgres"))
        each_second = "" if "lapse" in name else spread(rate(results, name, "waiting"), ",.0f")
        times = [spread(ms_of(ones, which), ".2f") for which in ("p50", "p99")]
        rows.append([words, each_second, *times, cores])
    lapsed = seen["lapse, 200 locks"]
    joins = []
    for connections in (64, 256):
        without, wait = f"no wait {connections}", f"wait {connections}"
        joins.append([str(connections),
                      *(spread(rate(results, name, "waiting"), ",.0f") for name in (without, wait)),
                      spread(ratio(results, wait, without, "waiting"), ".2f")])
    middle, least, most = spread_of([one["bytes_each"] for one in seen["crowd"]])
    return "\n".join([
        "### Waiting\n",
        prose(f"A line for each lock, on one node. Median of {len(lapsed)} rounds (least to most) "
              "of the hand-overs a second, and of each round's median and 99th percentile: the "
              "milliseconds from the sending of a release to the next waiter's response, and for "
              "leases that lapse, from the holder's deadline to that response."),
        table(["holders", "hand-overs a second", "ms, median", "ms, 99 %",
               "cores: service + PostgreSQL"], rows),
        "![From the end of a lease to the next waiter's response](images/waiting.svg)\n",
        prose("A client's deadline comes before the end of its lease in the database. Counted from "
              "the latest instant at which the lease can have ended, the next waiter's response "
              f"came after {spread(ms_of(lapsed, 'p50', 'at_least'), '.2f')} ms in the median, "
              f"{spread(ms_of(lapsed, 'p99', 'at_least'), '.2f')} at the 99th percentile."),
        prose("Acquires of new names with `wait_ms=1000` and without, in turns: what it costs to "
              "be ready to wait."),
        table(["connections", "without, a second", "with, a second", "ratio"], joins),
        prose(f"{seen['crowd'][0]['waiters']:,.0f} requests that wait for 1,000 locks take "
              f"{middle:,.0f} bytes of the service's memory each ({least:,.0f} to {most:,.0f}), "
              "beside that of the same connections idle."),
    ])


# The sections in their order on the page, with their headings.
SECTIONS = [
    ("rates", "Rates", rates),
    ("single", "One request at a time", single),
    ("statements", "The statements alone", statements),
    ("growth", "Growth", growth),
    ("memory", "Memory", memory),
    ("overload", "Overload", overload),
    ("waiting", "Waiting", waiting),
    ("profile", "Where the service's processor time goes", profile),
]
CLAIMS = "The claims"
SINCE = "Measured again since then"


def numbers(results, page=""):
    """All that was measured, as Markdown. Sections of the page that were not measured on this
    machine stay as they are.
    """
    preamble, *blocks = re.split(r"^### ", page, flags=re.M)
    kept = {block.split("\n", 1)[0]: f"### {block.strip()}\n" for block in blocks}
    measured = [name for name, _, _ in SECTIONS if name in results]
    if any(heading in kept for name, heading, _ in SECTIONS if name not in results):
        parts = [preamble.split(SINCE)[0].strip() + "\n", since(results, measured)]
    else:
        parts = [machine(results) if "machine" in results else None, dates(results)]
    parts.append(claims_table(results, kept if page else {}))
    for name, heading, write_section in SECTIONS:
        parts.append(write_section(results) if name in results else kept.get(heading))
    return "\n".join(part for part in parts if part)


def since(results, measured):
    """The sections that are newer than the others, in a paragraph."""
    seen, each = results["machine"], results.get("dates", {})
    names = ", ".join(f"{name} {each.get(name, seen['date'])}" for name in measured)
    return prose(f"{SINCE}, on {seen['processor']}, {seen['memory']}, Linux {seen['kernel']}, with "
                 f"{seen['versions']['Lockable']}: {names}.")


STYLE = """text{font:13px system-ui,sans-serif;fill:#1d2733}.own{font-weight:600}.n{fill:#51606f}
.a{fill:#2f6fde}.b{fill:#a9b4c0}.w{stroke:#1d2733;stroke-width:1.5}rect.p{fill:#fff}
.g{stroke:#a9b4c0;stroke-width:.5}
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
    for index, (label, own, (middle, least, most)) in enumerate(rows):
        y = top + line * index
        x1, x2 = left + least * scale, left + most * scale
        out.append(
            f'<text class="{"own" if own else ""}" x="{left - 10}" y="{y + 15}" '
            f'text-anchor="end">{label}</text>'
            f'<rect class="{"a" if own else "b"}" x="{left}" y="{y}" '
            f'width="{middle * scale:.1f}" height="20" rx="2"/>'
            f'<line class="w" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y + 10}" y2="{y + 10}"/>'
            f'<text class="n" x="{x2 + 8:.1f}" y="{y + 15}">{middle:,.0f}</text>')
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
            (", every name new: a transaction for each request",
             ", a transaction for each request"),
            ("the HTTP side alone, with authentication, no database; ",
             "HTTP side alone, no database, "),
            ("the same, 256", "HTTP side alone, no database, 256"),
        ]:
            words = words.replace(long, short)
        rows.append((words, own, three))
    title = "Requests a second (median, and least to most, of the rounds of one run)"
    return bars(title, rows, left=470)


def short_ms(value):
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def waiting_svg(results):
    """How long hand-overs take: images/waiting.svg. A bar from the median to the 99th percentile,
    on a logarithmic scale.
    """
    rows = [(words, results["waiting"][name]) for name, words in HAND_OVERS]
    width, left, right, line, top = 960, 470, 110, 30, 66
    values = [ms_of(ones, which)[0] for _, ones in rows for which in ("p50", "p99", "p999")]
    low, high = (round_(math.log10(value)) for round_, value in
                 [(math.floor, min(values)), (math.ceil, max(values))])
    high = max(high, low + 1)

    def x(value):
        return left + (math.log10(value) - low) / (high - low) * (width - left - right)

    height = top + line * len(rows) + 16
    title = "From the end of a lease to the next waiter's response, milliseconds"
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}" role="img" aria-label="{title}">',
           f"<style>{STYLE}</style>",
           f'<rect class="p" width="{width}" height="{height}"/>',
           f'<text x="14" y="26" style="font-size:15px;font-weight:600">{title}</text>',
           '<text class="n" x="14" y="46">median to 99th percentile, line to 99.9</text>']
    for power in range(low, high + 1):
        at = x(10 ** power)
        out.append(f'<text class="n" x="{at:.1f}" y="58" text-anchor="middle">{10 ** power:g}'
                   f'</text><line class="g" x1="{at:.1f}" x2="{at:.1f}" y1="64" '
                   f'y2="{height - 12}"/>')
    for index, (words, ones) in enumerate(rows):
        y = top + line * index
        middle, p99, p999 = (ms_of(ones, which)[0] for which in ("p50", "p99", "p999"))
        out.append(
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{words}</text>'
            f'<rect class="a" x="{x(middle):.1f}" y="{y}" '
            f'width="{max(2, x(p99) - x(middle)):.1f}" height="20" rx="2"/>'
            f'<line class="w" x1="{x(p99):.1f}" x2="{x(p999):.1f}" y1="{y + 10}" y2="{y + 10}"/>'
            f'<text class="n" x="{width - right + 12}" y="{y + 15}">{short_ms(middle)} / '
            f"{short_ms(p99)}</text>")
    return "\n".join(out) + "\n</svg>\n"


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
    found = rates_of(page)
    rows = [(label, label.startswith("Lockable"), found[name])
            for name, label in SHORT if name in found]
    title = "Durable answers a second, on two processors shared with the database and the load"
    return bars(title, rows, left=310)


def draw_short(folder):
    (folder / "images" / "rates.svg").write_text(short_svg((folder / "performance.md").read_text()))


def write(results, folder):
    """Puts the numbers between their marks, and leaves every other word as it is."""
    folder = pathlib.Path(folder)
    file, kept = folder / "performance.md", ROOT / "docs" / "performance.md"
    text = kept.read_text() if kept.exists() else f"# How fast\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN, 1)
    page, after = rest.split(END, 1)
    # A quick look shows only what it measured.
    page = page if file == kept else ""
    file.write_text(before + BEGIN + "\n\n" + numbers(results, page) + "\n" + END + after)
    print(f"wrote {file}")
    (folder / "images").mkdir(exist_ok=True)
    if "waiting" in results:
        (folder / "images" / "waiting.svg").write_text(waiting_svg(results))
    if "rates" in results:
        (folder / "images" / "performance.svg").write_text(svg(results))
        draw_short(folder)


if __name__ == "__main__":
    # Draws the README's plot again from the numbers that stand in docs/performance.md.
    draw_short(ROOT / "docs")

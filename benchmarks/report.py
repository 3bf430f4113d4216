"""The report: Markdown for docs/benchmarks, every number from one run."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.aims import Aim, median_of
from benchmarks.contenders import CONTENDERS
from benchmarks.intervals import bootstrap, paired_ratio
from benchmarks.materials import PICTURES
from benchmarks.rounds import Cell, Records

OURS = "ours"
HEAD = """# Serving: measured

Made by one run of the command below; do not edit. Every service posted the same made-up slices to; load by wrk on the
same cores, one thread; medians over rounds, in brackets where 95% of the medians of resampled rounds lie. Ratios are
taken round by round between neighbours in time, so they hold better than rates where a machine is shared.
"""


def markdown(
    facts: Iterable[tuple[str, str]],
    records: Records,
    empty: Records,
    cells: Sequence[Cell],
    empty_cells: Sequence[Cell],
    extras: dict[str, Any],
    aims: Sequence[Aim],
) -> str:
    """Lay out everything that was measured."""
    parts = [HEAD, table(("", ""), facts), "## Aims", aims_table(aims)]
    parts += ["## The floor: the bare engine, input decoded and ready", _floor(records, extras)]
    for kind in dict.fromkeys(cell.kind for cell in cells):
        media, side, _ = PICTURES[kind]
        parts += [f"## {side} x {side} {media}", _services(records, [cell for cell in cells if cell.kind == kind])]
    if any(row["service"] == OURS for row in records.cells):
        parts += ["## neuralblack serve against the others, requests/s", _ratios(records, cells)]
    parts += _extras(extras)
    if empty.cells:
        parts += [
            "## With an empty engine: what the request path costs",
            "Files are read, decoded and prepared as always; the network's answer is zeros.",
            _services(empty, empty_cells),
        ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write a table; None is a dash."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join("–" if cell is None else str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def aims_table(aims: Sequence[Aim]) -> str:
    """Write aims beside what was measured."""
    words = {True: "reached", False: "**missed**", None: "–"}
    return table(("aim", "measured", ""), [(aim.sentence, aim.measured, words[aim.reached]) for aim in aims])


def _floor(records: Records, extras: dict[str, Any]) -> str:
    if not records.floors:
        return "Not measured."
    rates, ones = records.floor(None, "rate"), records.floor(None, "one_ms")
    batch, tried = extras["batch"], extras["batches"]
    each = [row["rate"] for row in records.floors]
    rows = [(f"batch {size}{', the best' if size == batch else ''}", f"{rate:.1f}/s") for size, rate in tried.items()]
    rows += [
        (
            f"batch {batch}, over all rounds",
            f"{median_of(rates):.1f}/s, single measurements {min(each):.1f}–{max(each):.1f}",
        ),
        ("batch 1, over all rounds", f"{value:.2f} ms" if (value := median_of(ones)) else None),
    ]
    return table((f"{extras['engine']}: {extras['reason']}", ""), rows)


def _services(records: Records, cells: Sequence[Cell]) -> str:
    head = (
        "service",
        "clients",
        "requests/s",
        "of the floor",
        "p50 ms",
        "p99 ms",
        "batch",
        "CPU ms",
        "wrk ms",
        "errors",
    )
    rows = []
    for cell in cells:
        for name in CONTENDERS:
            rates = records.of(name, cell, "rate")
            if rates:
                share = paired_ratio(rates, records.floor(cell, "rate")) if records.floors else None
                numbers = (_number(records.of(name, cell, key), digits) for key, digits in _COLUMNS)
                errors = int(sum(records.of(name, cell, "errors").values()))
                rows.append((CONTENDERS[name].title, cell.clients, _rate(rates), share, *numbers, errors))
    return table(head, rows)


_COLUMNS = (("p50_ms", 1), ("p99_ms", 1), ("mean_batch", 1), ("cpu_ms", 2), ("wrk_ms", 2))


def _rate(values: dict[int, float]) -> str:
    found = bootstrap(list(values.values()))
    return f"{found.median:.1f} ({found.low:.1f}–{found.high:.1f})"


def _number(values: dict[int, float], digits: int) -> str | None:
    value = median_of(values)
    return None if value is None else f"{value:.{digits}f}"


def _ratios(records: Records, cells: Sequence[Cell]) -> str:
    others = [name for name in CONTENDERS if name != OURS]
    rows = []
    for cell in cells:
        ours = records.of(OURS, cell, "rate")
        ratios = [paired_ratio(ours, records.of(name, cell, "rate")) for name in others]
        rows.append((str(cell), *(None if ratio.median != ratio.median else ratio for ratio in ratios)))
    return table(("posted, clients", *(CONTENDERS[name].title for name in others)), rows)


def _extras(extras: dict[str, Any]) -> list[str]:
    parts = []
    if extras.get("paced"):
        head = ("service", "offered", "arriving", "p50 ms", "p99 ms", "longest ms", "statuses")
        rows = [
            (
                CONTENDERS[row["service"]].title,
                f"{row['offered']:.1f}/s",
                row["arrivals"],
                *(f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms")),
                _statuses(row),
            )
            for row in extras["paced"]
        ]
        parts += ["## At 70% of capacity, open loop", PACED.format(**extras), table(head, rows)]
    if extras.get("crowd"):
        head = ("service", "clients", "statuses", "longest 429 s", "p50 ms of 200", "p99 ms of 200")
        rows = [
            (
                CONTENDERS[row["service"]].title,
                row["clients"],
                _statuses(row),
                f"{row['longest_429_s']:.2f}",
                f"{row['p50_ms']:.0f}",
                f"{row['p99_ms']:.0f}",
            )
            for row in extras["crowd"]
        ]
        parts += ["## More clients than there is room for", table(head, rows)]
    if extras.get("memory"):
        rows = [
            (
                CONTENDERS[row["service"]].title,
                row["part"],
                row["processes"],
                f"{row['rss_mib']:.0f}",
                f"{row['pss_mib']:.0f}",
            )
            for row in extras["memory"]
        ]
        head = ("service", "part", "processes", "RSS MiB", "PSS MiB")
        parts += ["## Memory, behind the load", "PSS shares pages among who uses them.", table(head, rows)]
    return parts


PACED = (
    "Requests come when they are due, whatever became of the earlier ones; latency counts from then. Evenly is how wrk2"
    " paces, at random (Poisson) how independent users come. Capacity is the service's median rate in {capacity}."
)


def _statuses(row: dict[str, Any]) -> str:
    names = {"0": "broken"}
    return ", ".join(f"{count} x {names.get(status, status)}" for status, count in row["statuses"].items())

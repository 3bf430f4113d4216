"""What the service should reach, each aim beside what was measured."""

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.intervals import paired_ratio
from benchmarks.rounds import Cell, Records

OURS = "ours"


class Aim(NamedTuple):
    """One line: a sentence, what was measured, whether it is reached (None: not measured in this run)."""

    sentence: str
    measured: str
    reached: bool | None


def check_aims(records: Records, cells: Sequence[Cell], extras: dict[str, Any], *, int8: bool) -> list[Aim]:
    """Compare one run with the aims for two cores; an int8 engine has its own."""
    aims = [_share_of_floor(records, cell, 0.75 if int8 else 0.9) for cell in cells if cell.clients > 1]
    if int8:
        aims += [_against(records, cell, "eager", least=5.0) for cell in cells]
    aims += [_against(records, cell, name) for cell in cells for name in ("uvicorn", "litserve")]
    aims += [_one_client(records, cell) for cell in cells if cell.clients == 1]
    aims += [_paced(row) for row in extras.get("paced", []) if row["service"] == OURS]
    aims.append(_no_errors(records))
    aims += [_crowd(row) for row in extras.get("crowd", [])]
    return [aim for aim in aims if aim.reached is not None]


def _share_of_floor(records: Records, cell: Cell, least: float) -> Aim:
    share = paired_ratio(records.of(OURS, cell, "rate"), records.floor(cell, "rate"))
    sentence = f"{cell}: at least {100 * least:.0f}% of the floor"
    return Aim(sentence, str(share), None if share.median != share.median else share.median >= least)


def _against(records: Records, cell: Cell, name: str, *, least: float | None = None) -> Aim:
    ratio = paired_ratio(records.of(OURS, cell, "rate"), records.of(name, cell, "rate"))
    if least is not None:
        sentence, reached = f"{cell}: at least {least:g} times {name}", ratio.median >= least
    else:
        sentence, reached = f"{cell}: not behind {name} (the interval reaches 1)", ratio.high >= 1
    return Aim(sentence, str(ratio), None if ratio.median != ratio.median else reached)


def _one_client(records: Records, cell: Cell) -> Aim:
    ratio = paired_ratio(records.of(OURS, cell, "p50_ms"), records.floor(cell, "one_ms"))
    sentence = f"{cell}: p50 at most 1.25 times a bare batch of 1"
    return Aim(sentence, str(ratio), None if ratio.median != ratio.median else ratio.median <= 1.25)


def _paced(row: dict[str, Any]) -> Aim:
    ratio = row["p99_ms"] / max(1e-9, row["p50_ms"])
    sentence = f"{row['offered']:.0f}/s, 70% of capacity, arriving {row['arrivals']}: p99 at most 3 times p50"
    return Aim(sentence, f"{ratio:.2f} ({row['p99_ms']:.1f} / {row['p50_ms']:.1f} ms)", ratio <= 3)


def _no_errors(records: Records) -> Aim:
    rows = [row for row in records.cells if row["service"] == OURS]
    errors, answered = sum(row["errors"] for row in rows), sum(row["answered"] for row in rows)
    return Aim("no failed request in any cell", f"{errors} of {errors + answered:,}", errors == 0 if rows else None)


def _crowd(row: dict[str, Any]) -> Aim:
    fine = set(row["statuses"]) <= {"200", "429"} and row["longest_429_s"] < 1
    found = ", ".join(f"{count} x {status}" for status, count in row["statuses"].items())
    return Aim(
        f"{row['clients']} clients: nothing but 200 and 429, every 429 in under a second",
        f"{found}; the longest 429 {row['longest_429_s']:.2f} s",
        fine,
    )


def median_of(values: dict[int, float]) -> float | None:
    """The median over rounds; None where nothing was measured."""
    return median(values.values()) if values else None

"""What a challenger said behind the champion, summed up: how often the two agree, and where they do not.

neuralblack shadow shadow/MODEL
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from neuralblack.errors import InputError

REFUSED = "refused"


def summarise_shadow(folder: Path) -> dict[str, Any]:
    """Read the records of all replicas of a challenger.

    Args:
        folder: of one challenger, below the service's `shadow_records`.

    Returns:
        challenger: its id; champions: those that it answered behind, ids; slices: how many both answered; agreeing:
        the share with the same label, or refused by both, and interval, its 95% interval (Wilson, 1927), too narrow
        where slices are of few patients; table: champion's label -> challenger's -> slices; refused: the share that
        each refuses; difference: the mean of the largest differences of a probability, None where none was answered by
        both; first, last: when, UTC; cut_off: lines that a kill left half written.

    Raises:
        InputError: no records, several challengers, or a line that is none of ours.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        below = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        raise InputError(
            folder,
            found=f"no records, but folders of {', '.join(below)}" if below else "no records",
            expected="the folder of one challenger, below `shadow_records` of the service's configuration",
            fix=f"neuralblack shadow {folder / below[0]}" if below else "check the path, or wait for slices",
        )
    records, cut_off = [], 0
    for file in files:
        found, cut = _read(file)
        records += found
        cut_off += cut
    if not records:
        raise InputError(folder, found="no slice yet", expected="at least one", fix="wait for slices")
    pairs = Counter((_label(each["champion"]), _label(each["challenger"])) for each in records)
    agreeing = sum(count for (champion, challenger), count in pairs.items() if champion == challenger)
    names = sorted({name for pair in pairs for name in pair}, key=lambda name: (name == REFUSED, name))
    interval = binomtest(agreeing, len(records)).proportion_ci(method="wilson")
    differences = [each["difference"] for each in records if each["difference"] is not None]
    times = sorted(each["at"] for each in records)
    return {
        "challenger": folder.name,
        "champions": sorted({each["model"] for each in records}),
        "slices": len(records),
        "agreeing": agreeing / len(records),
        "interval": [interval.low, interval.high],
        "table": {row: {column: pairs[row, column] for column in names} for row in names},
        "refused": {
            who: sum(each[who]["label"] is None for each in records) / len(records)
            for who in ("champion", "challenger")
        },
        "difference": float(np.mean(differences)) if differences else None,
        "first": times[0],
        "last": times[-1],
        "cut_off": cut_off,
    }


def _read(file: Path) -> tuple[list[dict[str, Any]], int]:
    lines = file.read_text("utf-8").splitlines(keepends=True)
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            return found, 1
        try:
            record = {"model": "not known", **json.loads(line)}  # records of before they named the champion
            record["model"], record["at"], record["difference"]
            record["champion"]["label"], record["challenger"]["label"]
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{file}, line {number}",
                found="something else",
                expected="what champion and challenger said of a slice",
                fix="take the file out of the folder",
            ) from None
        found.append(record)
    return found, 0


def _label(answer: dict[str, Any]) -> str:
    return str(answer["label"] or REFUSED)

"""What a run cost: RUN/cost.jsonl, a line for each epoch that was computed, those again that a failure undid.

It is beside the run and not in its model: how long something took says nothing about what came out.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COST = "cost.jsonl"


class Clock:
    """Counts one process's epochs; it starts when it is made, so loading is in the first."""

    def __init__(self, run: Path, *, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._workers, self._clock, self._since = run / COST, workers, clock, clock()

    def lap(self, epoch: int) -> None:
        """Write down what an epoch that has just ended cost."""
        now = self._clock()
        line = {"epoch": epoch, "seconds": round(now - self._since, 3), "workers": self._workers}
        cut_off = self._path.exists() and not self._path.read_bytes().endswith(b"\n")  # by a kill: it is passed over
        with self._path.open("a") as file:
            file.write("\n" * cut_off + json.dumps(line) + "\n")
        self._since = now


def cost_of(run: Path) -> dict[str, float] | None:
    """Add up what a run cost, a search's trials included; None where nothing was written down.

    Returns:
        epochs: how many were computed; hours: of one worker after the other, so that two workers for an hour are two.
    """
    files = [run / COST, *sorted((run / "trials").glob(f"*/{COST}"))]
    lines = [line for file in files if file.exists() for line in _lines(file)]
    if not lines:
        return None
    return {"epochs": len(lines), "hours": sum(line["seconds"] * line["workers"] for line in lines) / 3600}


def said(cost: dict[str, float] | None) -> str:
    """Say a cost in words.

    >>> said({"epochs": 12, "hours": 1.5}), said({"epochs": 1, "hours": 0.01})
    ('12 epochs in 1.5 worker-hours', '1 epoch in 0.6 worker-minutes')
    """
    if cost is None:
        return "not recorded"
    many = f"{cost['epochs']:,} epoch{'' if cost['epochs'] == 1 else 's'}"
    hours = cost["hours"]
    return f"{many} in " + (f"{hours:,.1f} worker-hours" if hours >= 1 else f"{60 * hours:.1f} worker-minutes")


def _lines(file: Path) -> list[dict[str, Any]]:
    found = []
    for line in file.read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut off by a kill, which is what an epoch may meet
    return found

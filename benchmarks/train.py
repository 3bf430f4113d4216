"""Measure training: a step beside its floor and a usual script, a search with and without sharing, and processes.

python -m benchmarks.train --out docs/benchmarks/train.md

All of one run, or of one part of it: --only search.
"""

import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from benchmarks.machine import busy_cores, command, describe_machine
from benchmarks.train_cluster import checkpoint_cost, kill_cost, ray_beside_ddp, trial_starts
from benchmarks.train_search import compare
from benchmarks.train_steps import optimizer_cost, steps
from benchmarks.train_work import Work


class Part(StrEnum):
    """What can be measured by itself."""

    STEPS = "steps"
    SEARCH = "search"
    PROCESSES = "processes"


def main(
    out: Annotated[Path | None, typer.Option(help="Markdown.")] = None,
    only: Annotated[list[Part], typer.Option(help="Parts; none given: all of them.")] = [],
    patients: Annotated[int, typer.Option(min=8, help="Made-up heads.")] = 40,
    rounds: Annotated[int, typer.Option(min=1, help="Of steps and of processes.")] = 5,
    pairs: Annotated[int, typer.Option(min=1, help="Of searches, without and with sharing.")] = 3,
    trials: Annotated[int, typer.Option(min=2, help="Of each search.")] = 8,
    searched: Annotated[int, typer.Option(min=8, help="Made-up heads of the searches.")] = 120,
    model: Annotated[str, typer.Option(help="Of the searches.")] = "efficientnet_lite0",
) -> None:
    """Measure and write."""
    lines = ["# Training: measured", "", f"Made by one run of {command('benchmarks.train')}; do not edit.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in describe_machine())]
    lines += [f"| before the start | {busy_cores(seconds=2):.2f} cores busy with other things |", ""]
    with tempfile.TemporaryDirectory(prefix="nbb-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        parts = {
            Part.STEPS: lambda: of_steps(folder / "steps", patients=patients, rounds=rounds),
            Part.SEARCH: lambda: of_searches(
                folder / "search", patients=searched, pairs=pairs, trials=trials, model=model
            ),
            Part.PROCESSES: lambda: of_processes(folder / "processes", patients=searched, rounds=rounds, model=model),
        }
        for part in only or Part:
            (folder / part).mkdir()
            lines += [*parts[part](), ""]
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if out:
        out.write_text(text, "utf-8")


def of_steps(folder: Path, *, patients: int, rounds: int) -> Iterator[str]:
    """Measure a step of ResNet-50."""
    work = Work(folder, patients=patients, batch=16)
    yield f"## A step of ResNet-50, an epoch of {len(work.labels)} slices behind another one, {rounds} rounds"
    yield from ("", *steps(work, rounds), "", optimizer_cost(rounds))


def of_searches(folder: Path, *, patients: int, pairs: int, trials: int, model: str) -> Iterator[str]:
    """Measure searches to the end of every trial, and with rungs."""
    work = Work(folder, patients=patients, batch=16)
    yield f"## A search over {len(work.labels)} slices"
    for rungs in (False, True):
        yield from ("", *compare(work, folder, pairs=pairs, trials=trials, model=model, rungs=rungs))


def of_processes(folder: Path, *, patients: int, rounds: int, model: str) -> Iterator[str]:
    """Measure Ray Train beside DDP, a checkpoint, a kill, and the start of a trial."""
    work = Work(folder, patients=patients, batch=16)
    config = work.config.model_copy(update={"model": model, "precision": "fp32"})
    yield from ("## Processes", "", *ray_beside_ddp(config, work.data, folder, rounds=rounds), "")
    yield from (checkpoint_cost(folder / "checkpoint"), "", kill_cost(config, work.data, folder / "killed"), "")
    yield from trial_starts(config, work.data, folder)


if __name__ == "__main__":
    typer.run(main)

"""The runs under some folders, side by side."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from neuralblack.config import TrainConfig, checked
from neuralblack.errors import InputError
from neuralblack.files import is_held
from neuralblack.registry.run_folder import history_of, read_run, started_at

log = logging.getLogger(__name__)

ALWAYS = ("model", "schedule", "lr")  # fields that are shown even where all runs have the same
SCORE = "macro_f1"
Run = dict[str, Any]


def runs_under(folders: Iterable[Path]) -> list[Run]:
    """Read every run in some folders and below them, those of searches and cross-validations left to their own tables.

    A folder whose run.json another program wrote, or cannot be read, is left out, with a line in the log.

    Returns:
        For each: name, path, state (running, finished or stopped), started, epochs done and planned, of the best epoch
        its number and macro_f1, accuracy, loss, and the configuration. The best run first.

    Raises:
        InputError: a folder without any.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        paths = [path.parent for path in sorted(folder.rglob("run.json")) if folder.is_dir()]
        inside = dict[Path, Run]()
        for path in paths:
            try:
                if not any(parent in paths for parent in path.parents) and not _is_many(path):
                    inside[path.resolve()] = _read(path)
            except InputError as error:
                log.warning("left out: %s", error)
        if not inside:
            raise InputError(
                folder,
                found="no run",
                expected="a run, or a folder of runs",
                fix="neuralblack train DATASET RUN",
            )
        found |= inside
    return sorted(found.values(), key=lambda run: (run[SCORE] is None, -(run[SCORE] or 0), run["name"]))


def differences(runs: Sequence[Run]) -> list[str]:
    """List the fields of the configuration worth a column: those of ALWAYS, and those in which runs differ."""
    first = runs[0]["config"]
    return [name for name in first if name in ALWAYS or any(run["config"].get(name) != first[name] for run in runs)]


def _read(run: Path) -> Run:
    facts, history = read_run(run), history_of(run)
    config = checked(TrainConfig, facts["config"], where=run / "run.json")
    held_out = [epoch for epoch in history if SCORE in epoch]
    best = max(held_out, key=lambda epoch: (epoch[SCORE], -epoch["loss"]), default=None)
    return {
        "name": run.name,
        "path": str(run),
        "state": _state(run),
        "started": started_at(run),
        "done": len(history),
        "epochs": config.epochs,
        "best_epoch": None if best is None else int(best["epoch"]) + 1,
        **{name: None if best is None else best[name] for name in (SCORE, "accuracy", "loss")},
        "config": config.model_dump(mode="json"),
    }


def _is_many(run: Path) -> bool:
    """Say whether this is a cross-validation, which has a table of its own and no model."""
    return "crossval" in read_run(run)


def _state(run: Path) -> str:
    if (run / "model").exists():
        return "finished"
    return "running" if is_held(run / ".running") else "stopped"

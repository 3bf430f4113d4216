"""From which checkpoint a run goes on: the newest whole one of those that Ray Train counts."""

import logging
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from neuralblack.files import is_json, read_json, write_json
from neuralblack.training.checkpoints import MERIT, load_metrics, load_state, merit, sound
from neuralblack.training.loop import State

log = logging.getLogger(__name__)

SNAPSHOT = "checkpoint_manager_snapshot.json"  # in which Ray Train lists the checkpoints that it counts


def start_of(checkpoint: Any) -> State | None:
    """Read the state of a Ray checkpoint, or None where there is none.

    Where it was damaged since, the newest whole one of the same run counts: the epochs in between are done again.
    """
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as name:
        newest = Path(name)
        earlier = [folder for folder in newest.parent.glob("*_*") if folder.is_dir() and folder.name < newest.name]
        return load_state(sound([*sorted(earlier), newest])[-1])


def clean_up(folder: Path) -> None:
    """Take away what a kill has left, and let Ray Train go on from the newest whole checkpoint.

    Folders that it does not count were interrupted while they were written or deleted. A damaged or missing one that it
    counts is forgotten; otherwise its epoch, done again, would count twice and push out one that may be the best. Ray
    writes its list in place: where a kill has cut it off, it is made again of the whole checkpoints.

    Raises InputError where none is whole of those it counts.
    """
    snapshot = folder / SNAPSHOT
    if snapshot.exists() and not is_json(snapshot):
        log.warning("%s was cut off by a kill, and is made again", snapshot)
        write_json(snapshot, _snapshot_of(sound(sorted(folder.glob("epoch_*")))))
    for orphan in set(folder.glob("epoch_*")) - set(registered_checkpoints(folder)):
        log.info("%s was left over by a kill, and is removed", orphan)
        shutil.rmtree(orphan, ignore_errors=True)  # what remains is no checkpoint either
    if not snapshot.exists():
        return
    state = read_json(snapshot)
    results = state["checkpoint_results"]
    counted = [folder / result["checkpoint_dir_name"] for result in results]
    whole = set(sound(counted))
    old = any(MERIT not in result["metrics"] for result in results)  # an earlier version's: Ray would drop these first
    if len(whole) == len(counted) and not old:
        return
    kept = [number for number, path in enumerate(counted) if path in whole]
    for result in (*results, state["latest_checkpoint_result"]):
        result["metrics"][MERIT] = merit(result["metrics"])
    kept.sort(key=lambda number: results[number]["metrics"][MERIT])
    for name in ("checkpoint_results", "checkpoint_report_indices"):
        state[name] = [state[name][number] for number in kept]
    newest = max(range(len(kept)), key=lambda number: state["checkpoint_report_indices"][number])
    state["latest_checkpoint_result"] = state["checkpoint_results"][newest]
    write_json(snapshot, state)
    for path in set(counted) - whole:
        shutil.rmtree(path, ignore_errors=True)


def _snapshot_of(checkpoints: Sequence[Path]) -> dict[str, Any]:
    """Write the list that Ray Train 2.60 keeps, for checkpoints in the order of their epochs."""
    metrics = [load_metrics(path) for path in checkpoints]
    results = [
        {"checkpoint_dir_name": path.name, "metrics": each | {MERIT: merit(each)}}
        for path, each in zip(checkpoints, metrics, strict=True)
    ]
    order = sorted(range(len(results)), key=lambda number: merit(metrics[number]))
    return {
        "ray_version": version("ray"),
        "checkpoint_results": [results[number] for number in order],
        "checkpoint_report_indices": order,
        "latest_checkpoint_result": results[-1] if results else None,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": len(results),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def registered_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints that Ray Train counts, first to last; others were interrupted while they were written."""
    snapshot = folder / SNAPSHOT
    text = snapshot.read_text("utf-8") if snapshot.exists() else ""
    return [path for path in sorted(folder.glob("epoch_*")) if f'"{path.name}"' in text]

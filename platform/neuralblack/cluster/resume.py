"""From which checkpoint a run goes on: the newest whole one of those that Ray Train counts."""

import logging
import shutil
from pathlib import Path
from typing import Any

from neuralblack.files import read_json, write_json
from neuralblack.training.checkpoints import load_state, sound
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
    counts is forgotten; otherwise its epoch, done again, would count twice and push out one that may be the best.

    Raises InputError where none is whole of those it counts.
    """
    for orphan in set(folder.glob("epoch_*")) - set(registered_checkpoints(folder)):
        log.info("%s was left over by a kill, and is removed", orphan)
        shutil.rmtree(orphan)
    snapshot = folder / SNAPSHOT
    if not snapshot.exists():
        return
    state = read_json(snapshot)
    counted = [folder / result["checkpoint_dir_name"] for result in state["checkpoint_results"]]
    whole = set(sound(counted))
    if len(whole) == len(counted):
        return
    kept = [number for number, path in enumerate(counted) if path in whole]
    for name in ("checkpoint_results", "checkpoint_report_indices"):
        state[name] = [state[name][number] for number in kept]
    newest = max(range(len(kept)), key=lambda number: state["checkpoint_report_indices"][number])
    state["latest_checkpoint_result"] = state["checkpoint_results"][newest]
    write_json(snapshot, state)
    for path in set(counted) - whole:
        shutil.rmtree(path, ignore_errors=True)


def registered_checkpoints(folder: Path) -> list[Path]:
    """List the checkpoints that Ray Train counts, first to last; others were interrupted while they were written."""
    snapshot = folder / SNAPSHOT
    text = snapshot.read_text("utf-8") if snapshot.exists() else ""
    return [path for path in sorted(folder.glob("epoch_*")) if f'"{path.name}"' in text]

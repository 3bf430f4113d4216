"""Tune's state of a search, which it writes in place: kept whole beside it, and mended before a search goes on."""

import logging
import pickle
import re
from pathlib import Path
from typing import Any

from ray import tune

from neuralblack.errors import InputError
from neuralblack.files import is_json, write_bytes

log = logging.getLogger(__name__)

SEARCH = "search"  # Tune's folder in a search's run
KEPT = ".search_state"  # beside it, copies of the files of Tune's newest state
STATES = re.compile(r".*state-(.+)\.(json|pkl)")  # named by the start of the command that wrote them


class StateKept(tune.Callback):  # type: ignore[misc]
    """A copy of Tune's state with every epoch."""

    def __init__(self, run: Path) -> None:
        """Take the search's folder."""
        self._run = run

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Copy what is new since the last time; without room for a copy the search goes on."""
        try:
            keep_state(self._run)
        except InputError as error:
            log.warning("no copy of the search's state: %s", error)


def keep_state(run: Path) -> None:
    """Copy Tune's newest state, where it is whole: Tune writes it in place, and a full disk leaves half of it."""
    states = _states(run / SEARCH)
    if not states:
        return
    newest, kept = states[max(states)], run / KEPT
    stale = [path for path in newest if not _is_newer(kept / path.name, than=path)]
    if not stale or not all(_is_whole(path) for path in newest):
        return
    kept.mkdir(exist_ok=True)
    for path in stale:
        write_bytes(kept / path.name, path.read_bytes())


def _is_newer(copy: Path, *, than: Path) -> bool:
    return copy.exists() and copy.stat().st_mtime_ns >= than.stat().st_mtime_ns


def can_go_on(run: Path) -> bool:
    """Say whether a search can be gone on with, and take away what a kill or a full disk has cut off of Tune's state.

    Of a state that is cut off, or missing, Tune would make an empty search. So its copy takes its place, or the state
    of the command before. Where nothing is left, what there is of the search moves into RUN/lost-N.
    """
    folder = run / SEARCH
    if not (folder / "tuner.pkl").exists():
        return False  # nothing was begun
    for command, paths in _states(folder).items():
        if all(_is_whole(path) for path in paths):
            continue
        kept = _states(run / KEPT).get(command, [])
        log.warning(
            "the search's state of %s was cut off; %s", command, "its copy counts" if kept else "it is left out"
        )
        for path in paths:
            path.unlink()
        for path in kept:
            write_bytes(folder / path.name, path.read_bytes())
    if _states(folder) and _is_whole(folder / "tuner.pkl"):
        return True
    lost = run / f"lost-{1 + len(list(run.glob('lost-*')))}"
    lost.mkdir()
    for path in (folder, run / "trials"):
        if path.exists():
            path.rename(lost / path.name)
    log.warning("nothing whole is left of the search's state: it begins anew, and what was there is in %s", lost)
    return False


def _states(folder: Path) -> dict[str, list[Path]]:
    """List the files of Tune's states by the command that wrote them."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        if match := STATES.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def _is_whole(path: Path) -> bool:
    """Tell whether a file of Tune's state has its end: the experiment's is JSON, the others are pickles."""
    if path.name.startswith("experiment_state"):
        return is_json(path)
    return path.read_bytes()[-1:] == pickle.STOP

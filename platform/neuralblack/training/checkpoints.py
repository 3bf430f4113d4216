"""A state to go on from, as safetensors and JSON with hashes written last; no pickle, no silent bit flips."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from neuralblack.errors import InputError
from neuralblack.files import check_manifest, no_space_is_said, read_json, write_json, write_manifest
from neuralblack.training.loop import Metrics, State

log = logging.getLogger(__name__)

SCORE = "macro_f1"  # an epoch's and a trial's, on the validation folds
MERIT = "merit"  # by which Ray keeps checkpoints, see `merit`
EVERY_S = 10.0  # at most so much work is lost to a kill, and an epoch


class Pace:
    """Which epochs leave a checkpoint: the last, the best so far, and others only some seconds behind the one before.

    So epochs of a fraction of a second, of a head on shared activations, don't spend their time on writing.
    """

    def __init__(self, epochs: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._epochs, self._clock, self._saved = epochs, clock, clock()

    def due(self, metrics: Metrics, history: Iterable[Mapping[str, Any]]) -> bool:
        """Say whether an epoch is to be saved, which then counts as done.

        Which epoch is the best of a run does not depend on how fast it went.

        Args:
            metrics: the epoch's.
            history: the run's epochs; those before this one count.

        """
        earlier = [each for each in history if each["epoch"] < metrics["epoch"]]
        best = SCORE in metrics and all(merit(metrics) >= merit(each) for each in earlier)
        late = self._clock() - self._saved >= EVERY_S
        if best or late or metrics["epoch"] + 1 >= self._epochs:
            self._saved = self._clock()
            return True
        return False


def merit(metrics: Mapping[str, Any]) -> float:
    """Order epochs, the best highest: by score; of equals, the one with the lower loss. One number, as Ray wants it.

    Where nothing was held out to choose on, the last epoch is the best.

    >>> merit({"macro_f1": 0.9, "loss": 4}) < merit({"macro_f1": 0.9, "loss": 3}) < merit({"macro_f1": 1, "loss": 9})
    True
    """
    if SCORE not in metrics:
        return float(metrics["epoch"])
    return float(metrics[SCORE] - 1e-9 * metrics["loss"])


def best_checkpoint(checkpoints: Sequence[Path]) -> Path:
    """Find the checkpoint of the highest merit; of equals, the first."""
    return max(checkpoints, key=lambda path: merit(load_metrics(path)))


def save_state(state: State, metrics: Metrics, folder: Path) -> None:
    """Write a state into an empty folder.

    Args:
        state: {"epoch", "model", "optimizer", "made"} as `fit` reports it.
        metrics: of the same epoch, for whoever picks a checkpoint.
        folder: exists; gets model.safetensors, optimizer.safetensors, state.json, manifest.json.

    """
    optimizer = state["optimizer"]
    tensors = {
        f"{number}.{name}": torch.as_tensor(value).contiguous()
        for number, values in optimizer["state"].items()
        for name, value in values.items()
    }
    with no_space_is_said(folder):
        save_file({key: value.contiguous() for key, value in state["model"].items()}, folder / "model.safetensors")
        save_file(tensors, folder / "optimizer.safetensors")
        rest = {"epoch": state["epoch"], "param_groups": optimizer["param_groups"], "made": state["made"]}
        rest["metrics"] = metrics
        write_json(folder / "state.json", rest)
        write_manifest(folder)


def load_state(folder: Path) -> State:
    """Read a state back, every hash checked first; raises InputError naming the file that differs."""
    check_manifest(folder)
    rest = read_json(folder / "state.json")
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        number, name = key.split(".", 1)
        moments.setdefault(int(number), {})[name] = value
    return {
        "epoch": rest["epoch"],
        "model": load_file(folder / "model.safetensors"),
        "optimizer": {"state": moments, "param_groups": rest["param_groups"]},
        "made": rest["made"],
    }


def sound(folders: Sequence[Path]) -> list[Path]:
    """Leave out the checkpoints that are not whole, and say which; raises InputError where none is left of some."""
    kept, problems = [], []
    for folder in folders:
        try:
            check_manifest(folder)
            kept.append(folder)
        except InputError as error:
            problems.append(error)
            log.warning("this checkpoint is not used: %s", error)
    if problems and not kept:
        raise problems[-1]
    return kept


def checkpoint_name(epoch: int) -> str:
    """Name a checkpoint's folder; the names sort by epoch."""
    return f"epoch_{epoch:04d}"


def load_metrics(folder: Path) -> Metrics:
    """Read the metrics that a checkpoint was saved with."""
    metrics: Metrics = read_json(folder / "state.json")["metrics"]
    return metrics

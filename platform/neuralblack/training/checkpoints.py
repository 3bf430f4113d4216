"""A state to go on from, as safetensors and JSON with hashes written last; no pickle, no silent bit flips."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from neuralblack.errors import InputError
from neuralblack.files import check_manifest, no_space_is_said, read_json, write_json, write_manifest
from neuralblack.training.loop import Metrics, State

log = logging.getLogger(__name__)


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

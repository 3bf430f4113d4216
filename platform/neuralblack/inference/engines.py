"""ENGINES: ways to run a network's forward pass, chosen by device, by what is installed and by the model folder."""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from neuralblack.errors import InputError
from neuralblack.inference.compiled import compiled
from neuralblack.inference.cuda import cuda
from neuralblack.inference.eager import eager
from neuralblack.inference.golden import Golden, check_engine, golden_slices, repeated
from neuralblack.inference.openvino_engine import installed, openvino
from neuralblack.inference.outputs import Engine, Forward, Outputs
from neuralblack.inference.static_batches import GPU_SIZES
from neuralblack.models.execution import choose_device, has_bf16
from neuralblack.registry.model_folder import ModelFolder

__all__ = ["ENGINES", "Engine", "Outputs", "build_engine"]

log = logging.getLogger(__name__)

Build = Callable[[ModelFolder, torch.device], Forward]

ENGINES: dict[str, Build | None] = {
    # name, ending in its number format: how to build it
    "auto": None,
    "eager-fp32": lambda folder, device: eager(folder, dtype=torch.float32, device=device),
    "eager-bf16": lambda folder, device: eager(folder, dtype=torch.bfloat16, device=device),
    "compile-fp32": lambda folder, device: compiled(folder, dtype=torch.float32, device=device),
    "compile-bf16": lambda folder, device: compiled(folder, dtype=torch.bfloat16, device=device),
    "openvino-fp32": lambda folder, device: openvino(folder, precision="fp32"),
    "openvino-bf16": lambda folder, device: openvino(folder, precision="bf16"),
    "openvino-int8": lambda folder, device: openvino(folder, precision="int8"),
    "cuda-fp32": lambda folder, device: cuda(folder, dtype=torch.float32, device=device),
    "cuda-bf16": lambda folder, device: cuda(folder, dtype=torch.bfloat16, device=device),
}


class Checked:
    """An engine that answered the golden slices as it should."""

    def __init__(self, name: str, reason: str, forward: Forward) -> None:
        self.name, self.reason, self._forward = name, reason, forward
        self.calls_at_once: int = getattr(forward, "calls_at_once", 1)

    def __call__(self, images: Tensor) -> Outputs:
        """Run stored slices, (B, S, S) uint8 on the CPU, through the network."""
        return self._forward(images)


def build_engine(folder: ModelFolder, *, name: str = "auto", device: str | None = None) -> Engine:
    """Load a checked model folder's weights, make them ready and compare the answers with the golden slices.

    Args:
        folder: the model.
        name: a key of ENGINES; `auto` takes the first that this machine and this folder offer and that passes.
        device: `cpu`, `cuda`, `cuda:1`; none given: a GPU where there is one.

    Raises:
        InputError: an unknown name, what the engine needs is not there, or it failed on the golden slices.
    """
    if name not in ENGINES:
        raise InputError("engine", found=repr(name), expected="one of " + ", ".join(ENGINES), fix="--engine NAME")
    place, golden = _place(name, device), golden_slices(folder)
    if name == "auto":
        engine = _first_that_passes(folder, place, golden)
    else:
        engine = _build(name, "asked for", folder, place, golden)
    log.info("engine %s: %s", engine.name, engine.reason)
    return engine


def _place(name: str, device: str | None) -> torch.device:
    """Choose the device; OpenVINO is for the CPU, whatever else there is."""
    place = choose_device("cpu" if device is None and name.startswith("openvino") else device)
    if place.type != "cpu" and name.startswith("openvino"):
        raise InputError(f"engine {name}", found=f"the device {place}", expected="cpu", fix="leave the device out")
    return place


def candidates(folder: ModelFolder, device: torch.device) -> Iterator[tuple[str, str]]:
    """Name the engines that `auto` tries, best first, each with the reason for it."""
    bf16 = has_bf16(device)
    if device.type == "cuda":
        yield ("cuda-bf16", "this GPU computes bf16 natively") if bf16 else ("cuda-fp32", "this GPU has no bf16")
    if device.type == "cpu" and installed():
        if "int8" in folder.card:
            yield "openvino-int8", "the model folder has an int8 network that kept its accuracy"
        if bf16:
            yield "openvino-bf16", "this CPU computes bf16 natively"
        yield "openvino-fp32", "OpenVINO is installed" if bf16 else "OpenVINO is installed, this CPU has no bf16"
    without = "" if installed() or device.type != "cpu" else "; faster: pip install 'neuralblack[openvino]'"
    if bf16:
        yield "eager-bf16", f"bf16 is native{without}"
    yield "eager-fp32", f"PyTorch is always there{without}"


def _first_that_passes(folder: ModelFolder, device: torch.device, golden: Golden) -> Checked:
    refused: list[str] = []
    for name, why in candidates(folder, device):
        try:
            return _build(name, "; ".join([why, *refused]), folder, device, golden)
        except InputError as error:
            log.warning("engine %s is not used: %s", name, error)
            refused.append(f"not {name}: {error.found}")
    raise InputError(
        folder.path,
        found="; ".join(refused),
        expected="an engine that answers the golden slices",
        fix="train again; the weights don't give the answers that they gave then",
    )


def _build(name: str, why: str, folder: ModelFolder, device: torch.device, golden: Golden) -> Checked:
    build = ENGINES[name]
    assert build is not None
    forward = build(folder, device)
    if device.type == "cpu":
        worst = check_engine(name, forward, golden)
    else:  # more sizes of batch are captured there than golden slices fill
        whole = sum(GPU_SIZES)
        worst = check_engine(name, forward, repeated(golden, whole), at_a_time=whole)
    checked = f"probabilities within {worst:.1g} of eager-fp32 on {len(golden.images)} golden slices"
    return Checked(name, f"{device.type}, {torch.get_num_threads()} threads; {why}; {checked}", forward)

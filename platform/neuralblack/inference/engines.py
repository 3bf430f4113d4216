"""ENGINES: ways to run a network's forward pass, chosen by device, with the reason."""

import logging
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from neuralblack.errors import InputError
from neuralblack.models.execution import Execution, choose_execution
from neuralblack.models.inputs import to_input
from neuralblack.models.table import network_of
from neuralblack.registry.model_folder import ModelFolder, load_weights

log = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """What a network says of B slices: (B, K) float32 logits and (B, F) float32 pooled features, on the CPU."""

    logits: Tensor
    features: Tensor


class Engine(Protocol):
    """One way to run a network's forward pass."""

    @property
    def name(self) -> str:
        """A key of ENGINES."""

    @property
    def reason(self) -> str:
        """Why it was chosen: device, number format and what else counted, for the log and the card."""

    def __call__(self, images: Tensor) -> Outputs:
        """Run stored slices, (B, S, S) uint8 on the CPU, through the network."""


ENGINES: dict[str, str] = {
    # name: the precision that choose_execution takes
    "auto": "auto",
    "eager-fp32": "fp32",
    "eager-bf16": "bf16",
}


def build_engine(folder: ModelFolder, *, name: str = "auto", device: str | None = None) -> Engine:
    """Load a checked model folder's weights and make them ready to answer; an unknown name lists the known ones."""
    if name not in ENGINES:
        raise InputError("engine", found=repr(name), expected="one of " + ", ".join(ENGINES), fix="--engine NAME")
    execution = choose_execution(device, precision=ENGINES[name])
    engine = _Eager(folder, execution)
    log.info("engine %s: %s", engine.name, engine.reason)
    return engine


class _Eager:
    """PyTorch as it is: stages in eval mode under autocast."""

    def __init__(self, folder: ModelFolder, execution: Execution) -> None:
        self._network, self._execution = network_of(folder.config.model), execution
        stages = load_weights(folder).requires_grad_(False).to(execution.device)
        self._backbone, self._head = stages[:-1], stages[-1]
        self.name = "eager-bf16" if execution.dtype == torch.bfloat16 else "eager-fp32"
        self.reason = execution.reason

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        """Run one batch."""
        inputs = to_input(images.to(self._execution.device), self._network)
        with self._execution.autocast():
            maps = self._backbone(inputs)
            logits = self._head(maps)
        return Outputs(logits.float().cpu(), maps.float().mean((2, 3)).cpu())

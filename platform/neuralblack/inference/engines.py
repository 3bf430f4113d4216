"""ENGINES: ways to run a network's forward pass, chosen by device, with the reason."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuralblack.errors import InputError
from neuralblack.models.execution import Execution, choose_execution
from neuralblack.models.heads import probabilities
from neuralblack.models.inputs import to_input
from neuralblack.models.table import Network

log = logging.getLogger(__name__)

Engine = Callable[[Tensor], Tensor]  # (B, S, S) uint8 -> (B, K) float32 probabilities on the CPU

ENGINES: dict[str, str] = {
    # name: the precision that choose_execution takes
    "auto": "auto",
    "eager-fp32": "fp32",
    "eager-bf16": "bf16",
}


def build_engine(model: nn.Sequential, network: Network, *, name: str = "auto", device: str | None = None) -> Engine:
    """Make a network ready to answer; an unknown name lists the known ones."""
    if name not in ENGINES:
        raise InputError("engine", found=repr(name), expected="one of " + ", ".join(ENGINES), fix="--engine NAME")
    execution = choose_execution(device, precision=ENGINES[name])
    log.info("engine %s: %s", name, execution.reason)
    return _Eager(model, network, execution)


class _Eager:
    """PyTorch as it is: stages in eval mode under autocast."""

    def __init__(self, model: nn.Sequential, network: Network, execution: Execution) -> None:
        self._network, self._execution = network, execution
        self._model = model.eval().requires_grad_(False).to(execution.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Classify one batch."""
        inputs = to_input(images.to(self._execution.device), self._network)
        with self._execution.autocast():
            logits = self._model(inputs)
        return probabilities(logits).cpu()

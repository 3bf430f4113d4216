"""Stages that don't learn: running them, and telling whether what they say may be shared.

A backend may round otherwise in a batch of another size (oneDNN in fp32, cuDNN), so frozen stages only ever see batches
of one size; then a slice's activations are the same in every trial, wherever in a batch it stands.
"""

import hashlib
import inspect
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from neuralblack.data import crops
from neuralblack.models import inputs, network, table, timm_networks
from neuralblack.models.execution import Execution
from neuralblack.training import augmentation

Views = Callable[[Tensor], Tensor]  # rows (B,) int64 -> their views of one epoch, (B, 1, S, S) float32, on the device


class FrozenStages:
    """(frozen stages, rows, epoch, views) -> what the stages say of the rows' views: what the other stages take."""

    def __init__(self, execution: Execution, *, size: int) -> None:
        """Take the device and number format, and how many slices the stages see at a time."""
        self.execution, self.size = execution, size

    def __call__(self, frozen: nn.Sequential, rows: Tensor, epoch: int, views: Views) -> Tensor:
        """Compute it: (B, C, H, W) on the device; without frozen stages the views themselves.

        Args:
            frozen: the stages that don't learn; the same object as long as they are the same.
            rows: (B,) int64 on the CPU.
            epoch: from 0, or one of `feature_cache`'s other names for what the views are.
            views: draws them, where they are needed.

        """
        return self.through(frozen, views(rows)) if len(frozen) else views(rows)

    def through(self, stages: nn.Sequential, inputs: Tensor) -> Tensor:
        """Run stages without a graph for gradients, in batches of one size, the last one filled up with zeros."""
        found = []
        with torch.no_grad(), self.execution.autocast():
            for part in inputs.split(self.size):
                blank = part.new_zeros(self.size - len(part), *part.shape[1:])
                whole = torch.cat([part, blank]) if len(blank) else part
                found.append(stages(whole.contiguous(memory_format=torch.channels_last))[: len(part)])
        return torch.cat(found) if len(found) > 1 else found[0]

    def company_difference(self, stages: nn.Sequential, inputs: Tensor, whole: Tensor) -> float:
        """Compare what stages say of slices with what they say of them at other places of a batch, beside others.

        Args:
            stages: they don't learn.
            inputs: (B, 1, S, S).
            whole: what they say of them, (B, C, H, W).

        Returns:
            The largest difference; 0 where every bit is the same.

        """
        some = inputs[: max(1, self.size // 2)]
        company = some.repeat(self.size, 1, 1, 1)[: self.size - len(some)]
        moved = torch.cat([company, some])
        found, expected = self.through(stages, moved)[-len(some) :], whole[: len(some)]
        return 0.0 if torch.equal(found, expected) else float((found.float() - expected.float()).abs().max())

    def shared(self) -> float:
        """Say which share of the views had been computed before, 0..1, since this was asked last."""
        return 0.0

    def close(self) -> None:
        """Let go of files."""


def weights_hash(stages: nn.Module) -> str:
    """Hash weights and buffers with their names; hex digits."""
    found = hashlib.sha256()
    for name, value in stages.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def code_hash() -> str:
    """Hash the code that makes views and stages: what is on the disk outlives this program, and its next version."""
    found = hashlib.sha256((version("timm") if find_spec("timm") else "").encode())
    for module in (augmentation, crops, inputs, network, table, timm_networks):
        found.update(inspect.getsource(module).encode())
    return found.hexdigest()


def backend_of(execution: Execution) -> dict[str, Any]:
    """Say what else decides about the last bits of a result."""
    device = execution.device
    unit = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,
        "device": device.type,
        "unit": unit,
        "threads": torch.get_num_threads(),
        "dtype": str(execution.dtype),
    }

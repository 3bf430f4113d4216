"""Stages that don't learn: running them, and telling whether what they say may be shared."""

import hashlib
import inspect
import math
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from neuralblack.models import inputs, table
from neuralblack.models.execution import Execution
from neuralblack.training import augmentation


def through(frozen: nn.Sequential, inputs: Tensor, execution: Execution) -> Tensor:
    """Run stages that don't learn, without a graph for gradients."""
    with torch.no_grad(), execution.autocast():
        found: Tensor = frozen(inputs)
    return found


def split_difference(stages: nn.Sequential, inputs: Tensor, whole: Tensor, execution: Execution) -> float:
    """Compare what stages say of a batch with what they say of its first slice and of the rest: the largest difference.

    Args:
        stages: they don't learn.
        inputs: (B, 1, S, S).
        whole: what they say of all of it, (B, C, H, W).
        execution: device and number format.

    Returns:
        0 where every bit is the same; infinity for a single slice, which has no parts.

    """
    if len(inputs) < 2:
        return math.inf
    parts = torch.cat([through(stages, part, execution) for part in (inputs[:1], inputs[1:])])
    return 0.0 if torch.equal(parts, whole) else float((parts.float() - whole.float()).abs().max())


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
    for module in (augmentation, inputs, table):
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

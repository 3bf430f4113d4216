"""Where and in which number format a network runs, with the reason for the choice."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from neuralblack.errors import InputError


@dataclass(frozen=True)
class Execution:
    """A device and a number format; `reason` is for the log and the card."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def autocast(self) -> torch.autocast:
        """Compute matrix products in `dtype`; nothing changes for fp32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def choose_execution(device: str | None = None, *, precision: str = "auto") -> Execution:
    """Choose device and format; channels_last goes with both (FACTS: 1.9 times contiguous in fp32 on a CPU).

    Args:
        device: `cpu`, `cuda`, `cuda:1`; none given: a GPU where there is one.
        precision: `auto`, `fp32` or `bf16`.

    """
    chosen = choose_device(device)
    native = has_bf16(chosen)
    unit = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else "this CPU"
    if precision == "auto":
        dtype = torch.bfloat16 if native else torch.float32
        reason = f"{_name(dtype)}: {unit} {'computes' if native else 'has no'} bf16{' natively' if native else ''}"
    else:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        reason = f"{_name(dtype)}: the configuration says so"
    return Execution(chosen, dtype, f"{chosen.type}, {reason}, channels_last")


def choose_device(device: str | None = None) -> torch.device:
    """Take the device that is named, or a GPU where there is one; a GPU that is not there is refused."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device",
            found="no usable GPU for this process",
            expected="CUDA",
            fix="leave --gpus out, check nvidia-smi, or give --workers 1 where a cluster has GPUs",
        )
    if str(chosen) == "cuda":  # a tensor's device has a number, and differs from one without
        return torch.device("cuda", torch.cuda.current_device())
    return chosen


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bf16 natively: Ampere and later, AVX512-BF16, AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def sent(value: Tensor, device: torch.device) -> Tensor:
    """Bring what a step needs to its device, and let a GPU's work of before go on meanwhile; on a CPU it is the same.

    From memory that is not pinned a copy would wait for all of that.
    """
    if device.type == "cuda" and not value.is_cuda:
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def free_bytes(device: torch.device) -> int:
    """Count what may still be taken of a GPU's memory: what its driver has, and what torch took and keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def exact_convolutions() -> AbstractContextManager[None]:
    """Let cuDNN try its algorithms but not round float32 to TF32, which it does by default; no change on a CPU."""
    return _cudnn(benchmark=True, allow_tf32=False)


def repeatable_convolutions() -> AbstractContextManager[None]:
    """Let cuDNN take one algorithm for a shape, in every process, and none that adds up in any order; for training.

    Nor does it round float32 to TF32: who wants speed has bf16.
    """
    return _cudnn(benchmark=False, deterministic=True, allow_tf32=False)


def _cudnn(**flags: bool) -> AbstractContextManager[None]:
    # `enabled` is False by default in torch: without it the block would go on without cuDNN.
    manager: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, **flags)
    return manager


def _name(dtype: torch.dtype) -> str:
    return "bf16" if dtype == torch.bfloat16 else "fp32"

"""Activations in a GPU's memory, kept from trial to trial by a warm worker."""

import logging
import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from neuralblack.models.execution import free_bytes, sent

log = logging.getLogger(__name__)

SHARE = 0.5  # of the device's free memory, at most, for all of them; the rest is for training
_KEPT: OrderedDict[Path, "DeviceRows"] = OrderedDict()  # of this process, the latest used last


class DeviceRows:
    """Rows of one file of activations on a device; which of them are there."""

    def __init__(self, rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        """Take memory for `rows` of `shape` (C, H, W)."""
        self._values = torch.empty((rows, *shape), dtype=dtype, device=device, memory_format=torch.channels_last)
        self._there = torch.zeros(rows, dtype=torch.bool)
        self.size = self._values.nbytes

    def read(self, rows: Tensor) -> Tensor | None:
        """Gather rows, (B,) int64 on the CPU -> (B, C, H, W) on the device; None where one is missing."""
        if not bool(self._there[rows].all()):
            return None
        return self._values[sent(rows, self._values.device)].contiguous(memory_format=torch.channels_last)

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Keep rows, which lie on the device."""
        self._values[sent(rows, self._values.device)] = values
        self._there[rows] = True


def device_rows(
    path: Path, *, rows: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> DeviceRows | None:
    """Find the rows of a file that this process keeps on its GPU, or begin them; None where there is no room for them.

    What was used least lately makes room.
    """
    if path in _KEPT:
        _KEPT.move_to_end(path)
        return _KEPT[path]
    need = rows * math.prod(shape) * dtype.itemsize
    room = room_on(device)
    if need > room + sum(each.size for each in _KEPT.values()):
        return None  # what is kept would go for nothing
    while need > room:
        room += _KEPT.popitem(last=False)[1].size
    _KEPT[path] = DeviceRows(rows, shape, dtype, device)
    log.info("%d MiB of activations stay on %s", need >> 20, device)
    return _KEPT[path]


def room_on(device: torch.device) -> int:
    """Bytes that activations may still take on a device: none on a CPU, which has the file itself in memory."""
    if device.type != "cuda":
        return 0
    kept = sum(each.size for each in _KEPT.values())
    return int(SHARE * (free_bytes(device) + kept)) - kept

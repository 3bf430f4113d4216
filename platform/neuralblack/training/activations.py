"""Activations on this node's disk: a file for each epoch, filled row by row, checked at every read, oldest out first.

NAME.bin    a row for each slice of the dataset, memory-mapped; holes where none was written
NAME.sum    for each row 0, or MARK and the CRC-32 of its bytes, written behind them
NAME.N.lock held by whoever fills rows of worker N
"""

import errno
import logging
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuralblack.data.node_cache import open_in_use
from neuralblack.files import lock

log = logging.getLogger(__name__)

MARK = 1 << 32  # above a CRC-32: the row is there


class ActivationFile:
    """Activations of one boundary and epoch, (C, H, W) for each row; bits come back as they were written.

    Processes share it: a row is written once, or again with the same bytes. Rows lie channels-last, as the network
    computes them: a convolution may round otherwise for another layout.
    """

    def __init__(self, path: Path, *, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Open the file, or begin it with holes.

        Args:
            path: NAME.bin in a folder that exists.
            rows: slices of the dataset.
            shape: of one row, (C, H, W).
            dtype: of its numbers.

        """
        self.path, self._shape, self._dtype = path, shape, dtype
        self._size = math.prod(shape) * dtype.itemsize
        self._descriptor = open_in_use(path)
        os.ftruncate(self._descriptor, rows * self._size)
        os.utime(path)
        self._data = np.memmap(path, np.uint8, "r", shape=(rows, self._size))
        sums = path.with_suffix(".sum")
        with lock(path.with_suffix(".sum.lock")):
            if not sums.exists() or sums.stat().st_size != rows * 8:
                sums.write_bytes(bytes(rows * 8))  # written out: a hole in a mapping that is written to can kill
        self._sums = np.memmap(sums, np.uint64, "r+", shape=(rows,))

    def read(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Read rows, (B,) -> (B, C, H, W); None where one is missing or was damaged, which is then missing."""
        expected = self._sums[rows]
        if not expected.all():
            return None
        found = self._data[rows]
        damaged = [row for row, content, sum_ in zip(rows, found, expected, strict=True) if _sum(content) != sum_]
        if damaged:
            log.warning("%d rows of %s are damaged, and computed again", len(damaged), self.path)
            self._sums[damaged] = 0
            return None
        channels, height, width = self._shape
        whole = torch.from_numpy(found).view(self._dtype).reshape(len(rows), height, width, channels)
        return whole.permute(0, 3, 1, 2)

    def write(self, rows: NDArray[np.int64], values: Tensor) -> bool:
        """Write rows, (B, C, H, W); False where the disk is full, and nothing but holes is left of them."""
        content = values.detach().cpu().permute(0, 2, 3, 1).reshape(len(rows), -1).view(torch.uint8).numpy()
        try:
            for row, each in zip(rows, content, strict=True):
                written = 0
                while written < self._size:
                    written += os.pwrite(self._descriptor, each[written:].data, int(row) * self._size + written)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            log.warning("no space left for %s: this epoch is not shared any further", self.path)
            return False
        self._sums[rows] = [_sum(each) for each in content]
        return True

    @contextmanager
    def filling(self, worker: int) -> Iterator[None]:
        """Be the only one who fills rows of this worker: others wait, and then find them."""
        with lock(self.path.with_suffix(f".{worker}.lock")):
            yield

    def close(self) -> None:
        """Let `make_room` have it."""
        os.close(self._descriptor)


def _sum(content: NDArray[np.uint8]) -> int:
    return MARK | zlib.crc32(content.data)

"""How many batches and slices an engine has computed, for another process to read: two numbers in a shared page."""

import mmap
import struct
from pathlib import Path

from torch import Tensor

from neuralblack.inference.engines import Engine, Outputs

_PAIR = struct.Struct("<QQ")  # batches, slices


class Counted:
    """An engine that counts; a microsecond a batch."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.name, self.reason, self._engine = engine.name, engine.reason, engine
        self.calls_at_once = engine.calls_at_once
        path.write_bytes(bytes(_PAIR.size))
        with path.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), _PAIR.size)

    def __call__(self, images: Tensor) -> Outputs:
        """Run one batch."""
        batches, slices = _PAIR.unpack(self._page)
        self._page[:] = _PAIR.pack(batches + 1, slices + len(images))
        return self._engine(images)


def read_counter(path: Path) -> tuple[int, int]:
    """Read batches and slices; zeros where nothing has counted."""
    content = path.read_bytes() if path.exists() else b""
    return _PAIR.unpack(content) if len(content) == _PAIR.size else (0, 0)

"""What every compared service is told on its command line, and what all of them do with a file and with logits."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.counter import Counted
from benchmarks.empty import engine_of
from numpy.typing import NDArray
from torch import Tensor

from neuralblack.data.preprocessing import preprocess
from neuralblack.data.readers import read_slice
from neuralblack.models.heads import probabilities
from neuralblack.registry.model_folder import ModelFolder, open_model

MAX_BATCH = 8


@dataclass(frozen=True)
class Settings:
    """`python -m benchmarks.services.NAME PORT MODEL ENGINE THREADS COUNTER`; the engine may be `empty`."""

    port: int
    model: Path
    engine: str
    threads: int
    counter: Path

    @classmethod
    def from_command_line(cls) -> "Settings":
        """Read sys.argv."""
        port, model, engine, threads, counter = sys.argv[1:]
        return cls(int(port), Path(model), engine, int(threads), Path(counter))

    def folder(self) -> ModelFolder:
        """Open the model folder, its hashes checked."""
        return open_model(self.model)

    def build_engine(self) -> Counted:
        """Build and warm the engine; it counts its batches."""
        torch.set_num_threads(self.threads)
        folder = self.folder()
        engine = Counted(engine_of(folder, self.engine), self.counter)
        for count in (1, 2, 4, MAX_BATCH):
            engine(torch.zeros(count, folder.spec.size, folder.spec.size, dtype=torch.uint8))
        return engine


def read(data: bytes, folder: ModelFolder) -> NDArray[np.uint8]:
    """Turn an upload into the slice (S, S) uint8 that the model takes, in the caller's thread."""
    return preprocess(read_slice(data, where="upload", labelled=False).image, folder.spec, where="upload")


def answers(logits: Tensor, folder: ModelFolder) -> list[dict[str, object]]:
    """Turn logits (B, K) into B answers."""
    return [
        {
            "label": folder.classes[int(row.argmax())],
            "probabilities": dict(zip(folder.classes, row.tolist(), strict=True)),
        }
        for row in probabilities(logits)
    ]

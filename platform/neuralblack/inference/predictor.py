"""THE forward pass: evaluation, `neuralblack predict` and the service all ask this one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuralblack.data.preprocessing import preprocess
from neuralblack.data.readers import read_slice
from neuralblack.inference.engines import build_engine
from neuralblack.models.heads import probabilities
from neuralblack.registry.model_folder import ModelFolder, model_path, open_model

BATCH = 32  # slices per forward pass; above 8 nothing is gained on a CPU, a GPU wants more


@dataclass(frozen=True)
class Prediction:
    """One slice's answer; the probabilities sum to 1."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """A loaded model: stored slices in, probabilities out."""

    def __init__(self, folder: ModelFolder, *, engine: str = "auto", device: str | None = None) -> None:
        self.folder, self.engine = folder, engine
        self.classes, self.spec, self.hash, self.name = folder.classes, folder.spec, folder.hash, folder.id
        self._run = build_engine(folder, name=engine, device=device)

    @classmethod
    def load(cls, path: Path, *, engine: str = "auto", device: str | None = None) -> "Predictor":
        """Load a model folder, or a run's; every hash is checked before the first weight."""
        return cls(open_model(model_path(path)), engine=engine, device=device)

    def probabilities(self, images: NDArray[np.uint8], *, batch: int = BATCH) -> NDArray[np.float32]:
        """Classify stored slices: (N, S, S) uint8, prepared by this model's spec -> (N, K) float32."""
        if not len(images):
            return np.zeros((0, len(self.classes)), np.float32)
        parts = [
            probabilities(self._run(torch.from_numpy(np.array(images[at : at + batch]))).logits)
            for at in range(0, len(images), batch)
        ]
        return torch.cat(parts).numpy()

    def __call__(self, slices: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Classify slices, each (S, S) uint8, in one batch."""
        return [self._prediction(row) for row in self.probabilities(np.stack(slices), batch=len(slices))]

    def file(self, path: Path) -> Prediction:
        """Read, prepare and classify one file; raises InputError where it is not a slice."""
        slice_ = read_slice(path, where=path, labelled=False)
        return self([preprocess(slice_.image, self.spec, where=path)])[0]

    def _prediction(self, row: NDArray[np.float32]) -> Prediction:
        top = int(row.argmax())
        values = {name: float(value) for name, value in zip(self.classes, row, strict=True)}
        return Prediction(self.classes[top], float(row[top]), values)

"""What the training benchmarks learn from: made-up heads, prepared, and as the PNG files of a usual script."""

from pathlib import Path

from PIL import Image
from torch import nn

from neuralblack.config import TrainConfig
from neuralblack.data.dataset import Dataset, class_numbers
from neuralblack.data.phantoms import write_phantoms
from neuralblack.data.prepare import prepare
from neuralblack.data.splits import Split, make_split
from neuralblack.models.execution import choose_execution
from neuralblack.models.table import build_model, network_for
from neuralblack.training.batches import Batches
from neuralblack.training.pixels import Pixels


class Work:
    """A dataset of made-up heads, its training slices as PNG files, and the numbers of a run."""

    def __init__(self, folder: Path, *, patients: int, batch: int) -> None:
        write_phantoms(folder / "scans", patients=patients, slices=1, size=256)
        self.data = folder / "slices"
        self.dataset: Dataset = prepare([folder / "scans" / "figshare", folder / "scans" / "images"], self.data)
        self.split: Split = make_split(self.dataset, train=None, validation=(2,), test=(1,))
        self.config = TrainConfig(weights="none", batch_norm="eval", batch_size=batch, epochs=1, warmup_epochs=0)
        self.execution = choose_execution("cpu")
        self.files = []
        for row in self.split.train:
            self.files.append(folder / f"{row}.png")
            Image.fromarray(self.dataset.images[row]).save(self.files[-1])
        self.labels = class_numbers(self.dataset, self.split.train, self.split.classes)

    def batches(self) -> Batches:
        """Make the batches that `fit` takes."""
        return Batches(
            Pixels(self.dataset.images, self.execution),
            len(self.dataset),
            self.labels,
            self.split.train,
            config=self.config,
            network=network_for(self.config),
            execution=self.execution,
        )

    def model(self) -> nn.Sequential:
        """Build ResNet-50's stages with random weights."""
        return build_model(self.config.model, classes=len(self.split.classes))

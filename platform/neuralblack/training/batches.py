"""Training batches: the same global batches for any number of workers, as far as frozen stages bring them."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neuralblack.config import TrainConfig
from neuralblack.data.shards import places_of
from neuralblack.models.execution import Execution, sent
from neuralblack.models.inputs import normalise, to_unit
from neuralblack.models.network import Network
from neuralblack.training.augmentation import augment, moved
from neuralblack.training.frozen import FrozenStages
from neuralblack.training.guidance import rasterised
from neuralblack.training.pixels import Pixels

BLOCKS = 8  # drawn for a window
AHEAD = 256  # batches whose shards are fetched while earlier ones are trained on


class Batch(NamedTuple):
    """One rank's part of a global batch, on the device."""

    inputs: Tensor  # (B, C, H, W), what the frozen stages say
    labels: Tensor  # (B,) int64
    weights: Tensor  # (B,) float32
    boxes: Tensor | None = None  # (B, 1, S, S) float32, how much of each pixel of the view the tumour's box covers


class Batches:
    """epoch, frozen stages -> this rank's part of every global batch, behind those stages.

    The order is one by (seed, epoch), see `shuffled`; each rank takes every `size`-th slice of each global batch, so
    that a run sees the same batches on any number of workers. A rank whose part is empty gets one slice of weight 0.

    Args:
        pixels: of the whole dataset, N slices.
        slices: N.
        labels: (R,) int64, the classes of `rows`.
        rows: (R,) int64, the training slices among `images`.
        config, network, execution: numbers, input size and device.
        rank, size: this worker among all.
        behind: runs the frozen stages, in batches of `part_of` slices; none given: nothing is shared.
        boxes: (N, 4) of the dataset in shares of the side, for guidance; none given: a batch has none.

    """

    def __init__(
        self,
        pixels: Pixels,
        slices: int,
        labels: NDArray[np.int64],
        rows: NDArray[np.int64],
        *,
        config: TrainConfig,
        network: Network,
        execution: Execution,
        rank: int = 0,
        size: int = 1,
        behind: FrozenStages | None = None,
        boxes: NDArray[np.floating] | None = None,
    ) -> None:
        self._config, self._network, self._execution = config, network, execution
        self._behind = behind or FrozenStages(execution, size=part_of(config.batch_size, len(rows), size))
        self._rank, self._size = rank, size
        self._pixels, self._rows = pixels, torch.as_tensor(rows)
        self._places = places_of(slices)[rows]
        self._boxes = None if boxes is None else torch.as_tensor(boxes)
        self._labels = torch.as_tensor(labels)
        self._weights = class_weights(self._labels, config.class_weights)

    def __len__(self) -> int:
        """Optimiser steps in an epoch; the last batch may be smaller."""
        return -(-len(self._rows) // self._config.batch_size)

    def __call__(self, epoch: int, frozen: nn.Sequential) -> Iterator[Batch]:
        """Yield what `frozen` says of views with their labels, weights and, for guidance, boxes.

        Without frozen stages that is the view itself, (B, 1, size, size) float32.
        """
        device = self._execution.device
        order = self._order(epoch)
        for step, whole in enumerate(order):
            if step % AHEAD == 0:
                self._pixels.ahead(self._rows[torch.cat(order[step : step + 2 * AHEAD])])
            part, real = whole[self._rank :: self._size], 1.0
            if not len(part):
                part, real = whole[:1], 0.0
            rows, weights = self._rows[part], self._weights[part] * real
            inputs = self._behind(frozen, rows, epoch, partial(self.views, epoch=epoch))
            boxes = None if self._boxes is None else self._moved_boxes(self._boxes[rows], rows, epoch)
            yield Batch(inputs, sent(self._labels[part], device), sent(weights, device), boxes)

    def shared(self) -> float:
        """Say which share of the slices since the last call another trial had brought through the frozen stages."""
        return self._behind.shared()

    def rows_of(self, epoch: int, step: int) -> list[int]:
        """List the slices of one global batch, as numbers in the dataset."""
        rows: list[int] = self._rows[self._order(epoch)[step]].tolist()
        return rows

    def _order(self, epoch: int) -> tuple[Tensor, ...]:
        """Split one order of the training slices into global batches."""
        generator = torch.Generator().manual_seed(self._config.seed * 1_000_003 + epoch)
        order = shuffled(self._places, self._config.shuffle_window, generator)
        batches: tuple[Tensor, ...] = order.split(self._config.batch_size)
        return batches

    def views(self, rows: Tensor, epoch: int) -> Tensor:
        """Draw views, (B, 1, size, size) float32 in channels_last, on the device."""
        config, device = self._config, self._execution.device
        there = sent(rows, device)
        unit = to_unit(self._pixels(rows, there), self._network.size)
        unit = augment(unit, there, epoch=epoch, seed=config.seed, config=config.views)
        return normalise(unit, self._network).contiguous(memory_format=torch.channels_last)

    def _moved_boxes(self, boxes: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Show the boxes as the views of this epoch show their slices."""
        config, device = self._config, self._execution.device
        masks = rasterised(sent(boxes, device), self._network.size)
        return moved(masks, sent(rows, device), epoch=epoch, seed=config.seed, config=config.views)


def part_of(batch_size: int, slices: int, workers: int) -> int:
    """Count the slices of a global batch that a worker gets, at most.

    >>> part_of(32, 1_000, 3), part_of(32, 5, 1)
    (11, 5)
    """
    return -(-min(batch_size, slices) // workers)


def shuffled(places: NDArray[np.int64], window: int, generator: torch.Generator) -> Tensor:
    """Shuffle slices so that each stretch of about `window` of them comes from few shards: (R,) int64, an order.

    Places are cut into blocks; so many blocks as make a window are drawn, and their slices are mixed. Which slice lies
    in which place is one permutation of the dataset, so every block is a sample of all of it, and the order is the same
    wherever the dataset is kept.

    Args:
        places: (R,) of the slices, as `data.shards.scattered` gives them out.
        window: slices of the dataset, not only of these, that are mixed; 0: all.
        generator: of (seed, epoch).

    """
    order = torch.randperm(len(places), generator=generator)
    if not window:
        return order
    blocks = torch.as_tensor(places) // max(1, window // BLOCKS)
    turns = torch.randperm(int(blocks.max()) + 1, generator=generator) // BLOCKS
    return order[torch.argsort(turns[blocks[order]], stable=True)]


def class_weights(labels: Tensor, choice: str) -> Tensor:
    """Weigh slices: (R,) int64 labels -> (R,) float32 with mean 1, each class of equal sum where `balanced`.

    >>> class_weights(torch.tensor([0, 0, 0, 1]), "balanced").tolist()
    [0.6666666865348816, 0.6666666865348816, 0.6666666865348816, 2.0]
    """
    if choice == "none":
        return torch.ones(len(labels))
    counts = torch.bincount(labels).float()
    return (len(labels) / (counts.count_nonzero() * counts))[labels]

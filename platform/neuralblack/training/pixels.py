"""The slices of a dataset where batches are made: all of them on the device where they fit, else as they are needed."""

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuralblack.data.crops import Cropped
from neuralblack.data.shards import Images, ShardedImages, by_shard, scattered
from neuralblack.models.execution import Execution, free_bytes, sent

SHARE = 0.5  # of a GPU's free memory, at most, for slices; the rest is for training
AT_A_TIME = 4096  # slices on their way to a GPU


class Pixels:
    """rows -> slices on the device, (B, S, S) uint8.

    On a CPU they are a view of the memory map, on a GPU a copy. What does not fit there, and shards and crops on a CPU,
    are read when they are asked for; `ahead` says of which rows that will be.
    """

    def __init__(self, images: Images, execution: Execution) -> None:
        """Take what `Dataset.images` is."""
        self._images, self._device = images, execution.device
        self._whole: Tensor | None = None
        if execution.device.type == "cuda":
            if images.nbytes <= SHARE * free_bytes(execution.device):
                self._whole = torch.empty(images.shape, dtype=torch.uint8, device=self._device)
                for rows in np.split(scattered(len(images)), range(AT_A_TIME, len(images), AT_A_TIME)):
                    self._whole[torch.tensor(rows, device=self._device)] = _tensor(images[rows]).to(self._device)
        elif isinstance(images, np.ndarray):
            self._whole = _tensor(images)

    def __call__(self, rows: Tensor, there: Tensor | None = None) -> Tensor:
        """Gather rows, (B,) int64 on any device; `there` are the same on this one, where somebody has sent them."""
        if self._whole is None:
            return sent(torch.from_numpy(self._images[rows.cpu().numpy()]), self._device)
        return self._whole[sent(rows, self._device) if there is None else there]

    def by_shard(self, rows: Tensor) -> Tensor:
        """Order rows so that each shard is read once: (R,) int64, the same wherever the slices are kept."""
        return torch.from_numpy(by_shard(rows.cpu().numpy(), len(self._images)))

    def ahead(self, rows: Tensor) -> None:
        """Say which rows will be asked for soon."""
        if self._whole is None and isinstance(self._images, ShardedImages | Cropped):
            self._images.ahead(rows.cpu().numpy())


def _tensor(images: NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # A memory map is read-only and torch warns of it; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)

"""The group of workers that train one model: what `fit` needs to know of the others."""

import torch
from torch import Tensor, nn


class OneProcess:
    """The group when there is only this worker."""

    rank, size = 0, 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """Make gradients the mean over the group."""
        return model

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor up over the group."""
        return value


class Workers(OneProcess):
    """A group of processes whose process group somebody (Ray Train, a test) has made already."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over the group; a group of one needs no wrapper."""
        if self.size == 1:
            return model
        wrapped = nn.parallel.DistributedDataParallel(model)
        # Before every step it would send rank 0's BatchNorm statistics, of which training makes no use; an epoch's end
        # sends them once. As an argument this has another name from torch 2.13 on, with a warning for the old one.
        wrapped.broadcast_buffers = False
        return wrapped

    def sum(self, value: Tensor) -> Tensor:
        """Add a tensor up over the group; the argument keeps its values."""
        if self.size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

"""What every engine takes and gives."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Outputs(NamedTuple):
    """What a network says of B slices: (B, K) float32 logits and (B, F) float32 features as `pooled`, on the CPU."""

    logits: Tensor
    features: Tensor


class Engine(Protocol):
    """One way to run a network's forward pass."""

    @property
    def name(self) -> str:
        """A key of ENGINES."""

    @property
    def reason(self) -> str:
        """Why it was chosen: device, number format and what else counted, for the log and the card."""

    @property
    def calls_at_once(self) -> int:
        """How many threads should call it to keep it busy."""

    def __call__(self, images: Tensor) -> Outputs:
        """Run stored slices, (B, S, S) uint8 on the CPU, through the network."""


Forward = Callable[[Tensor], Outputs]  # stored slices, (B, S, S) uint8 on the CPU -> what the network says of them


def pooled(before: Tensor, last: Tensor) -> Tensor:
    """Pool what the last two stages in front of the head see: mean and standard deviation of every channel.

    The last stage alone keeps what tells the classes apart, and a drawing in the shape of a head has that as well; the
    one before still sees texture (docs/log.md, 2026-11-25).

    Args:
        before: maps of the last stage but one, (B, C, H, W).
        last: those of the last, (B, D, h, w).

    Returns:
        (B, 2 * (C + D)).

    """
    parts = []
    for maps in (before, last):
        mean = maps.mean((2, 3), keepdim=True)
        parts += [mean, (maps - mean).square().mean((2, 3), keepdim=True).sqrt()]
    return torch.cat(parts, 1).flatten(1)

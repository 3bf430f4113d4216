"""What every engine takes and gives."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class Outputs(NamedTuple):
    """What a network says of B slices: (B, K) float32 logits and (B, F) float32 pooled features, on the CPU."""

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

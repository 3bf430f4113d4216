"""Batches of a few sizes only, so that everything can be compiled ahead: five slices run as 4 + 1."""

from collections.abc import Callable

import torch
from torch import Tensor

from neuralblack.inference.outputs import Outputs

SIZES = (8, 4, 2, 1)  # on a CPU a batch above 8 gains nothing, docs/benchmarks/engines.md
GPU_SIZES = (32, 16, 8, 4, 2, 1)


def pieces(count: int, sizes: tuple[int, ...] = SIZES) -> list[int]:
    """Cut a batch into the largest sizes that fit.

    >>> pieces(5), pieces(21)
    ([4, 1], [8, 8, 4, 1])
    """
    cut = []
    for size in sizes:
        cut += [size] * (count // size)
        count %= size
    return cut


def run_in_pieces(images: Tensor, run: Callable[[Tensor], Outputs], sizes: tuple[int, ...] = SIZES) -> Outputs:
    """Run a batch of any size, one or more, piece by piece."""
    cut = pieces(len(images), sizes)
    if len(cut) == 1:
        return run(images)
    return joined([run(piece) for piece in images.split(cut)])


def joined(parts: list[Outputs]) -> Outputs:
    """Put the outputs of pieces together, in their order."""
    return Outputs(torch.cat([part.logits for part in parts]), torch.cat([part.features for part in parts]))

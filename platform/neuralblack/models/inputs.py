"""From stored slices to a network's input: the same steps for training, evaluation and serving."""

import torch
from torch import Tensor, nn

from neuralblack.models.network import Network


def to_unit(images: Tensor, size: int) -> Tensor:
    """Bring stored slices to a side length.

    Args:
        images: (B, S, S) uint8.
        size: pixels a side.

    Returns:
        (B, 1, size, size) float32 in 0..1, antialiased where it shrinks.

    """
    unit = images[:, None].float() / 255
    if images.shape[-1] == size:
        return unit
    return nn.functional.interpolate(unit, (size, size), mode="bilinear", antialias=True, align_corners=False)


def normalise(unit: Tensor, network: Network) -> Tensor:
    """Centre and scale intensities in 0..1 as the network's weights expect."""
    return (unit - network.mean) / network.std


def to_input(images: Tensor, network: Network) -> Tensor:
    """(B, S, S) uint8 -> (B, 1, size, size) float32, centred and scaled, channels last."""
    return normalise(to_unit(images, network.size), network).contiguous(memory_format=torch.channels_last)

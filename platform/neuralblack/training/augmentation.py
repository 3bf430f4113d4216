"""Views of a training slice as a function of (seed, image, epoch): equal on any device, worker or batch split."""

import math

import torch
from torch import Tensor, nn

from neuralblack.config import AugmentationConfig

_WORD = 0xFFFFFFFF


def uniform(seed: int, images: Tensor, epoch: int, k: int) -> Tensor:
    """Draw one number per image from a counter-based hash.

    Args:
        seed, epoch, k: which draw; `k` numbers the parameters of one view.
        images: (B,) int64, what identifies each image.

    Returns:
        (B,) float32 in [0, 1), the same on CPU and GPU: integer arithmetic only, then 24 bits as a fraction.

    """
    value = images
    for part in (seed, epoch, k):
        value = _mixed(value + 0x9E3779B9 * (part + 1))
    return (value >> 8).float() / (1 << 24)


def _mixed(value: Tensor) -> Tensor:
    """Scramble 32-bit words (`lowbias32`, C. Wellons, hash-prospector, 2018)."""
    value = value & _WORD
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _WORD
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _WORD
    return value ^ (value >> 16)


def augment(unit: Tensor, images: Tensor, *, epoch: int, seed: int, config: AugmentationConfig) -> Tensor:
    """Draw one view of every slice; a config of zeros returns the slices unchanged.

    Args:
        unit: (B, 1, S, S) float32 in 0..1.
        images: (B,) int64, what identifies each image; the views depend on nothing else of the batch.
        epoch, seed: of the run.
        config: the ranges.

    Returns:
        (B, 1, S, S) float32 in 0..1.

    """
    unit = moved(unit, images, epoch=epoch, seed=seed, config=config)
    gain = 1 + _draw(config.gain, seed, images, epoch, 5)
    gamma = 1 + _draw(config.gamma, seed, images, epoch, 6)
    return (unit.clamp(0, 1) ** gamma[:, None, None, None] * gain[:, None, None, None]).clamp(0, 1)


def moved(unit: Tensor, images: Tensor, *, epoch: int, seed: int, config: AugmentationConfig) -> Tensor:
    """Turn, scale, shift and mirror as the view of each slice is, and leave intensities: for masks as well.

    The arguments are those of `augment`; what comes from outside the picture is 0.
    """

    def draw(k: int, reach: float) -> Tensor:
        return _draw(reach, seed, images, epoch, k)

    angle, scale = draw(0, math.radians(config.rotate_degrees)), 1 + draw(1, config.scale)
    shift_x, shift_y = draw(2, 2 * config.shift), draw(3, 2 * config.shift)  # grid_sample's image is 2 wide
    mirror = torch.where(uniform(seed, images, epoch, 4) < config.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([mirror * cos, mirror * -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)]
    if not (config.rotate_degrees or config.scale or config.shift or config.flip):
        return unit
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(unit.shape), align_corners=False)
    return nn.functional.grid_sample(unit, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _draw(reach: float, seed: int, images: Tensor, epoch: int, k: int) -> Tensor:
    """Draw one number per image from -reach to reach: (B,) float32."""
    return (2 * uniform(seed, images, epoch, k) - 1) * reach

"""Grad-CAM: where in a slice the network found what speaks for a class.

It shows where the network looked, not where a tumour is.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def grad_cam(stages: nn.Sequential, inputs: Tensor, label: int) -> Tensor:
    """Weigh the last stage's maps by the mean gradient of a class's logit (Selvaraju et al., 2017).

    Args:
        stages: the network in eval mode, head last.
        inputs: (1, 1, S, S) float32, as `models.inputs.to_input` makes them.
        label: the class.

    Returns:
        (H, W) float32 in 0..1, the size of the last maps; all 0 where nothing speaks for the class.
    """
    with torch.enable_grad():
        maps = stages[:-1](inputs).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(stages[-1](maps)[0, label], maps)
    heat: Tensor = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1)[0].relu()
    top = heat.max()
    return heat / top if top > 0 else heat


def enlarged(heat: Tensor, size: int) -> NDArray[np.uint8]:
    """(H, W) in 0..1 -> (size, size) uint8, smooth."""
    large = nn.functional.interpolate(heat[None, None], (size, size), mode="bilinear", align_corners=False)
    return (large[0, 0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()

"""Frozen features: what a network sees of a slice before anything was fine-tuned, for the linear probe."""

import numpy as np
import torch
from numpy.typing import NDArray

from neuralblack.models.execution import choose_execution, exact_convolutions
from neuralblack.models.inputs import to_input
from neuralblack.models.table import build_model, network_of


@torch.inference_mode()
def pooled_features(
    images: NDArray[np.uint8], *, model: str, weights: str, batch: int = 64, device: str | None = None
) -> NDArray[np.float32]:
    """Compute what the classifier takes: the last maps, averaged, and whatever the head does with them before it.

    Args:
        images: (N, S, S) uint8.
        model: a key of MODELS, or `timm:NAME`.
        weights: as in TrainConfig; the weights that a run would start from.
        batch: slices per forward pass.
        device: none given: a GPU where there is one.

    Returns:
        (N, features) float32, computed in fp32.

    """
    execution, network = choose_execution(device, precision="fp32"), network_of(model)
    stages = build_model(model, classes=2, weights=weights).eval().to(execution.device)
    before = torch.nn.Sequential(*[*stages.children()][:-1], *[*stages[-1].children()][:-1])
    parts = []
    for at in range(0, len(images), batch):
        inputs = to_input(torch.from_numpy(np.array(images[at : at + batch])).to(execution.device), network)
        with exact_convolutions():
            parts.append(before(inputs).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, network.features), np.float32)

"""LOSSES: the losses of a head, and the probabilities that match them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from neuralblack.errors import InputError

FOCUS = 2.0  # gamma, the value of Lin et al.


def cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """Cross-entropy of each slice in nats: (B, K) logits, (B,) int64 labels -> (B,) float32."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)


def focal(logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """Focal loss (Lin et al., 2017): a slice counts the less the surer the network is of its class.

    (B, K) logits, (B,) int64 labels -> (B,) float32: cross-entropy times (1 - p)^2, p the label's probability.
    """
    sure = probabilities(logits).gather(1, labels[:, None])[:, 0]
    return (1 - sure) ** FOCUS * cross_entropy(logits, labels, smoothing=smoothing)


LOSSES: dict[str, Callable[..., Tensor]] = {"cross-entropy": cross_entropy, "focal": focal}


def loss_of(name: str) -> Callable[..., Tensor]:
    """Look a loss up; an unknown name lists the known ones."""
    if name not in LOSSES:
        raise InputError("loss", found=repr(name), expected="one of " + ", ".join(LOSSES), fix="--set loss=NAME")
    return LOSSES[name]


def probabilities(logits: Tensor) -> Tensor:
    """Softmax, which both losses mean: (B, K) -> (B, K) float32 that sum to 1."""
    return torch.softmax(logits.float(), dim=1)

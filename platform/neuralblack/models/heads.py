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


def log_sigmoid(logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """One class against the rest, K times: the sum of K binary cross-entropies in nats.

    (B, K) logits, (B,) int64 labels -> (B,) float32: -logsigmoid(z) for the class and -logsigmoid(-z) for each other;
    targets are smoothed as those of cross-entropy.
    """
    count = logits.shape[1]
    targets = nn.functional.one_hot(labels, count) * (1 - smoothing) + smoothing / count
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").sum(1)


LOSSES: dict[str, Callable[..., Tensor]] = {"cross-entropy": cross_entropy, "focal": focal, "log-sigmoid": log_sigmoid}
ONE_AGAINST_REST = ("log-sigmoid",)


def loss_of(name: str) -> Callable[..., Tensor]:
    """Look a loss up; an unknown name lists the known ones."""
    if name not in LOSSES:
        raise InputError("loss", found=repr(name), expected="one of " + ", ".join(LOSSES), fix="--set loss=NAME")
    return LOSSES[name]


def scores(logits: Tensor, *, loss: str) -> Tensor:
    """Turn a head's outputs into what all else calls logits: (B, K) -> (B, K) float32, whose softmax a loss means.

    Of one against the rest that is logsigmoid(z), so that probabilities are sigmoids, scaled to the sum of 1.
    """
    return nn.functional.logsigmoid(logits.float()) if loss in ONE_AGAINST_REST else logits.float()


def scoring(head: nn.Module, *, loss: str) -> nn.Module:
    """Let a trained head give `scores`, with the same weights under the same names."""
    return nn.Sequential(*head.children(), nn.LogSigmoid()) if loss in ONE_AGAINST_REST else head


def probabilities(logits: Tensor) -> Tensor:
    """Softmax of `scores`: (B, K) -> (B, K) float32 that sum to 1."""
    return torch.softmax(logits.float(), dim=1)

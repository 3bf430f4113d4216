"""The loss of a head, and the probabilities that match it."""

import torch
from torch import Tensor, nn


def losses(logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
    """Cross-entropy of each slice in nats: (B, K) logits, (B,) int64 labels -> (B,) float32."""
    return nn.functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)


def probabilities(logits: Tensor) -> Tensor:
    """Softmax, the inverse of cross-entropy: (B, K) -> (B, K) float32 that sum to 1."""
    return torch.softmax(logits.float(), dim=1)

"""What is asked of cuDNN; no GPU is needed to see it."""

import numpy as np
import torch

from neuralblack.inference.features import pooled_features
from neuralblack.models.execution import exact_convolutions, repeatable_convolutions


def test_serving_keeps_cudnn_and_does_not_round_to_tf32():
    with exact_convolutions():
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32


def test_training_keeps_cudnn_and_takes_one_algorithm_in_every_process():
    with repeatable_convolutions():
        assert torch.backends.cudnn.enabled
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32


def test_features_are_computed_without_rounding_to_tf32(tiny, monkeypatch):
    asked = []

    def noted(self, inputs, forward=torch.nn.Conv2d.forward):
        asked.append(torch.backends.cudnn.allow_tf32)
        return forward(self, inputs)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    pooled_features(np.zeros((2, 32, 32), np.uint8), model=tiny, weights="none", device="cpu")

    assert asked and not any(asked)

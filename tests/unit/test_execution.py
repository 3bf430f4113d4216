"""What is asked of cuDNN; no GPU is needed to see it."""

import torch

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

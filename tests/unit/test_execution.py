"""What is asked of cuDNN; no GPU is needed to see it."""

import numpy as np
import pytest
import torch

from neuralblack.config import TrainConfig
from neuralblack.data.splits import make_split
from neuralblack.evaluation import finalists
from neuralblack.evaluation.finalists import intervals_of
from neuralblack.evaluation.record_wise import retrain_with
from neuralblack.inference.features import pooled_features
from neuralblack.models.execution import choose_device, exact_convolutions, repeatable_convolutions, sent
from neuralblack.training.checkpoints import best_checkpoint
from neuralblack.training.recipe import classify
from neuralblack.training.runs import train_here

SHORT = TrainConfig(model="tiny", weights="none", epochs=1, batch_size=16, precision="fp32")


@pytest.mark.parametrize(("named", "chosen"), [(None, "cuda:1"), ("cuda", "cuda:1"), ("cuda:0", "cuda:0")])
def test_a_gpu_has_its_number_as_the_tensors_on_it_have(named, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)

    assert choose_device(named) == torch.device(chosen)
    assert choose_device("cpu") == torch.device("cpu")


class Sent:
    """A tensor in a CPU's memory that says how it went to a device."""

    is_cuda, pinned = False, False

    def pin_memory(self):
        self.pinned = True
        return self

    def to(self, device, *, non_blocking=False):
        return device.type, self.pinned, non_blocking


def test_what_a_step_needs_goes_to_a_gpu_without_a_wait_and_on_a_cpu_stays_where_it_is():
    value = torch.arange(3)

    assert sent(Sent(), torch.device("cuda", 0)) == ("cuda", True, True)
    assert sent(value, torch.device("cpu")) is value


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


@pytest.fixture
def rounds_to_tf32(monkeypatch):
    """Whether cuDNN might round to TF32, at each convolution in turn."""
    asked = []

    def noted(self, inputs, forward=torch.nn.Conv2d.forward):
        asked.append(torch.backends.cudnn.allow_tf32)
        return forward(self, inputs)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    return asked


def test_features_are_computed_without_rounding_to_tf32(tiny, rounds_to_tf32):
    pooled_features(np.zeros((2, 32, 32), np.uint8), model=tiny, weights="none", device="cpu")

    assert rounds_to_tf32 and not any(rounds_to_tf32)


def test_a_recipe_trained_record_by_record_is_judged_without_rounding_to_tf32(dataset, tiny, rounds_to_tf32):
    split = make_split(dataset, train=None, validation=(2,), test=(1,))

    retrain_with(SHORT, dataset, split.classes)(split.train, split.validation, split.test)

    assert rounds_to_tf32 and not any(rounds_to_tf32)


def test_a_searchs_finalists_are_judged_without_rounding_to_tf32(dataset, tiny, tmp_path, rounds_to_tf32):
    split = make_split(dataset, train=None, validation=(2,), test=(1,))
    train_here(SHORT, data=dataset.path, run=tmp_path / "run")

    intervals_of({0: (SHORT, best_checkpoint((tmp_path / "run" / "checkpoints").iterdir()))}, dataset, split)

    assert rounds_to_tf32 and not any(rounds_to_tf32)


def test_a_searchs_finalists_are_judged_on_a_sample_of_a_large_validation_part(dataset, tiny, tmp_path, monkeypatch):
    asked = []
    split = make_split(dataset, train=None, validation=(2,), test=(1,))
    train_here(SHORT, data=dataset.path, run=tmp_path / "run")
    monkeypatch.setattr("neuralblack.data.dataset.SAMPLE", 4)
    monkeypatch.setattr(
        finalists, "classify", lambda *args, **named: (asked.append(args[2]), classify(*args, **named))[1]
    )

    intervals_of({0: (SHORT, best_checkpoint((tmp_path / "run" / "checkpoints").iterdir()))}, dataset, split)

    assert [len(rows) for rows in asked] == [4] and set(asked[0].tolist()) < set(split.validation.tolist())

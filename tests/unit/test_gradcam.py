"""Grad-CAM: on a head that is an average and a line it is the weighted sum of the maps, known without any gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from neuralblack.config import TrainConfig
from neuralblack.errors import InputError
from neuralblack.inference.gradcam import enlarged, grad_cam
from neuralblack.inference.predictor import Predictor
from neuralblack.training.runs import train_here


def network(seed=0):
    torch.manual_seed(seed)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    return nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), head).eval().requires_grad_(False)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_it_is_the_class_activation_map_of_an_averaging_head(label):
    stages, image = network(), torch.randn(1, 1, 17, 17)

    maps = stages[:-1](image)[0]
    expected = torch.einsum("c,chw->hw", stages[-1][2].weight[label], maps).relu()

    assert torch.allclose(grad_cam(stages, image, label), expected / expected.max(), atol=1e-5)


def test_where_nothing_speaks_for_a_class_the_map_is_zero():
    stages = network()
    stages[-1][2].weight.fill_(-1)

    heat = grad_cam(stages, torch.randn(1, 1, 17, 17), 0)

    assert not heat.any()


def test_enlarging_keeps_the_place_and_the_range():
    heat = torch.zeros(4, 4)
    heat[1, 2] = 1

    large = enlarged(heat, 64)

    assert large.shape == (64, 64) and large.dtype == np.uint8 and large.max() > 200
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert 16 <= row < 32 <= column < 48


@pytest.fixture
def predictor(dataset, tiny, tmp_path):
    config = TrainConfig(model="tiny", weights="none", epochs=1, precision="fp32")
    train_here(config, data=dataset.path, run=tmp_path / "run")
    return Predictor.load(tmp_path / "run", engine="eager-fp32")


def test_the_predictor_explains_a_slice_for_the_class_it_chose_or_another(dataset, predictor):
    pixels = dataset.images[0]

    chosen = predictor.explain(pixels)

    assert chosen.shape == pixels.shape and chosen.dtype == np.uint8
    assert (chosen == predictor.explain(pixels, predictor([pixels])[0].label)).all()
    assert predictor.explain(pixels, predictor.classes[0]).shape == pixels.shape


@pytest.mark.parametrize("damage", ["a bit", "gone"])
def test_weights_that_changed_since_the_model_was_opened_draw_no_heat_map(damage, dataset, predictor):
    weights = predictor.folder.path / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    if damage == "a bit":
        weights.write_bytes(data)

    with pytest.raises(InputError, match=r"weights\.safetensors: found .*expected SHA-256"):
        predictor.explain(dataset.images[0])

"""A run may show its network another size of input: in training, on the card, and wherever the model answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from neuralblack.config import TrainConfig
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.reference import calibrate
from neuralblack.models.inputs import to_input
from neuralblack.models.table import network_for, network_of
from neuralblack.registry.describe import describe
from neuralblack.registry.model_folder import load_weights
from neuralblack.training.runs import train_here

CONFIG = TrainConfig(
    model="tiny", weights="none", schedule="all", lr=0.02, epochs=1, batch_size=16, precision="fp32", size=48
)


@pytest.fixture
def model(dataset, tiny, tmp_path):
    """A network that was made for 32 pixels a side, trained and calibrated with 48, of slices of 64."""
    return train_here(CONFIG, data=dataset.path, run=tmp_path / "run", calibrate=calibrate)


def test_a_model_answers_with_the_size_that_it_was_trained_with(model, dataset):
    predictor = Predictor(model, engine="eager-fp32")
    stages, images = load_weights(model), dataset.images[:5]

    with torch.inference_mode():
        expected = stages(to_input(torch.from_numpy(np.array(images)), replace(network_of("tiny"), size=48)))
    assert predictor.probabilities(images) == pytest.approx(
        (expected / predictor.temperature).softmax(1).numpy(), abs=1e-5
    )
    assert dict(describe(model.path))["network input"] == "mean 0.5, size 48, std 0.5"
    assert predictor.explain(images[0]).shape == (64, 64)


def test_another_size_is_another_run(model, dataset, tiny, tmp_path):
    other = train_here(
        CONFIG.model_copy(update={"size": None}), data=dataset.path, run=tmp_path / "other", calibrate=calibrate
    )

    assert network_for(other.config).size == 32 and network_for(model.config).size == 48
    assert not np.allclose(
        Predictor(other, engine="eager-fp32").probabilities(dataset.images[:5]),
        Predictor(model, engine="eager-fp32").probabilities(dataset.images[:5]),
    )


def test_more_pixels_than_are_stored_are_said(dataset, tiny, tmp_path, caplog):
    train_here(CONFIG.model_copy(update={"size": 96}), data=dataset.path, run=tmp_path / "run")

    assert "slices of 64 pixels a side are enlarged to 96: no more to see" in caplog.text


def test_a_card_from_before_inputs_stood_on_it_has_the_runs_size(model):
    card = {name: value for name, value in model.card.items() if name != "network_input"}

    assert replace(model, card=card).network == model.network

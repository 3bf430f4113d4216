"""Losses and the probabilities that match them, against formulas written out."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from neuralblack.config import TrainConfig
from neuralblack.inference.engines import build_engine
from neuralblack.inference.gradcam import grad_cam
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.reference import calibrate
from neuralblack.models.heads import LOSSES, ONE_AGAINST_REST, loss_of, probabilities, scores
from neuralblack.models.inputs import to_input
from neuralblack.models.table import MODELS, build_model
from neuralblack.registry.model_folder import load_weights
from neuralblack.training.runs import train_here

LOGITS, LABELS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]]), torch.tensor([0, 2])


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_focal_is_cross_entropy_times_the_squared_rest():
    for row, label, found in zip(LOGITS, LABELS, loss_of("focal")(LOGITS, LABELS, smoothing=0.0), strict=True):
        share = math.exp(row[label]) / sum(map(math.exp, row))
        assert float(found) == pytest.approx(-((1 - share) ** 2) * math.log(share), rel=1e-5)


def test_log_sigmoid_asks_of_each_class_whether_it_is_the_one():
    for row, label, found in zip(LOGITS, LABELS, loss_of("log-sigmoid")(LOGITS, LABELS, smoothing=0.0), strict=True):
        parts = [math.log(sigmoid(z if index == label else -z)) for index, z in enumerate(row)]
        assert float(found) == pytest.approx(-sum(parts), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_the_largest_logits_is_a_number_with_a_gradient(name):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    found = loss_of(name)(logits, LABELS, smoothing=0.05)
    found.sum().backward()

    assert found.isfinite().all() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_probabilities_are_those_that_the_loss_is_lowest_for(name):
    """The loss of three classes at shares of .7, .2 and .1 is lowest where these are the probabilities."""
    if name == "focal":
        pytest.skip("focal loss is not proper: its lowest point is less sure than the shares")
    shares, logits = torch.tensor([0.7, 0.2, 0.1]), torch.zeros(1, 3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200)

    def expected():
        optimizer.zero_grad()
        losses = [loss_of(name)(logits, torch.tensor([label]), smoothing=0.0) for label in range(3)]
        total = sum(share * loss for share, loss in zip(shares, losses, strict=True)).sum()
        total.backward()
        return total

    optimizer.step(expected)
    found = probabilities(scores(logits.detach(), loss=name))[0]
    assert torch.allclose(found, shares, atol=1e-3)


@pytest.mark.parametrize("engine", ["eager-fp32", "openvino-fp32"])
def test_a_model_of_one_class_against_the_rest_says_scaled_sigmoids_wherever_it_runs(engine, dataset, tiny, tmp_path):
    if engine.startswith("openvino"):
        pytest.importorskip("openvino")
    (loss,) = ONE_AGAINST_REST
    config = TrainConfig(model="tiny", weights="none", epochs=2, batch_size=16, precision="fp32", lr=0.02, loss=loss)
    model = train_here(config, data=dataset.path, run=tmp_path / "run", calibrate=calibrate)
    plain = build_model("tiny", classes=len(model.classes))
    plain.load_state_dict(load_file(model.path / "weights.safetensors"))
    images = np.array(dataset.images[:6])
    inputs = to_input(torch.from_numpy(images), MODELS["tiny"])
    with torch.inference_mode():
        shares = torch.sigmoid(plain.eval()(inputs)).numpy()

    predictor = Predictor(model, engine=engine)
    tempered = shares ** (1 / predictor.temperature)
    found = predictor.probabilities(images)

    assert found == pytest.approx(tempered / tempered.sum(1, keepdims=True), abs=1e-4)
    logits = build_engine(model, name=engine)(torch.from_numpy(images)).logits
    assert torch.allclose(logits.exp(), torch.from_numpy(shares), atol=1e-4)
    assert torch.allclose(grad_cam(load_weights(model), inputs[:1], 1), grad_cam(plain, inputs[:1], 1), atol=1e-4)

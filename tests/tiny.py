"""A network small enough to train in a test, and a dataset of made-up heads to train it on."""

from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from torch import nn

from neuralblack.config import TrainConfig
from neuralblack.data.dataset import Dataset
from neuralblack.data.phantoms import write_phantoms
from neuralblack.data.prepare import prepare
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.labels import CLASSES
from neuralblack.models.network import Network
from neuralblack.models.table import MODELS, build_model
from neuralblack.registry.model_folder import save_model
from neuralblack.training import checkpoints


def _net() -> nn.Module:
    net = nn.Module()
    net.conv1, net.bn1 = nn.Conv2d(3, 4, 3, stride=4, bias=False), nn.BatchNorm2d(4)
    net.conv2, net.bn2 = nn.Conv2d(4, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
    net.fc = nn.Linear(8, 1000)
    return net


def _stages(net: nn.Module, head: nn.Module) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        stem=nn.Sequential(net.conv1, net.bn1, nn.ReLU()),
        layer1=nn.Sequential(net.conv2, net.bn2, nn.ReLU()),
        head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head),
    )


def add_tiny_network() -> None:
    """Add the row `tiny` to MODELS; a spawned process calls it again."""
    MODELS["tiny"] = Network(
        _net, _stages, "conv1", "fc", 8, size=32, mean=0.5, std=0.5, imagenet=lambda: _net().state_dict()
    )


def add_tiny_network_and_save_every_epoch() -> None:
    """The same for a test of kills, so that they often fall into a checkpoint."""
    checkpoints.EVERY_S = 0.0
    add_tiny_network()


@cache
def phantom_dataset(folder: Path, *, patients: int = 20, slices: int = 1, size: int = 64) -> Dataset:
    """Write made-up heads and prepare them; once for each folder."""
    write_phantoms(folder / "scans", patients=patients, slices=slices, size=size)
    return prepare(
        [folder / "scans" / "figshare", folder / "scans" / "images"], folder / "slices", size=size, workers=1
    )


def save_untrained(path: Path, *, shown: str = "slice", **spec: float) -> Path:
    """Save an untrained model of `tiny`, which is in MODELS; `spec` says how its slices are prepared."""
    torch.manual_seed(len(spec))
    config = TrainConfig(model="tiny", weights="none", input=shown)
    card = {"classes": list(CLASSES), "config": config.model_dump(mode="json")}
    state = build_model("tiny", classes=len(CLASSES)).state_dict()
    save_model(path, state, card=card, spec=Preprocessing(size=64, **spec), split={}, history=[])
    return path

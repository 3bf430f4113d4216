"""MODELS: every network as ordered stages, head last, with the input it was made for.

The composition of a network's stages is its forward pass: `model(x)` is `head(layer4(...stem(x)))`, so that an
unfreeze schedule fits every row and the frozen part is `model[:k]`. Slices are grey, so every stem takes one channel:
its weights are summed over RGB, which equals showing the same slice three times, given one mean and one std
(difference 3e-7, FACTS of 2026-11).
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from neuralblack.config import TIMM, TrainConfig
from neuralblack.errors import InputError
from neuralblack.models import torchvision_cpu
from neuralblack.models.network import Network, Stages, one_channel
from neuralblack.models.timm_networks import import_timm, timm_network
from neuralblack.models.weights import efficientnet_lite0_imagenet, read_weights, resnet50_imagenet

log = logging.getLogger(__name__)


def _resnet50() -> Any:
    torchvision_cpu.declare_missing_operators()
    from torchvision.models import resnet50

    return resnet50(weights=None)


def _resnet50_stages(net: Any, head: nn.Module) -> Stages:
    return OrderedDict(
        stem=nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
        layer1=net.layer1,
        layer2=net.layer2,
        layer3=net.layer3,
        layer4=net.layer4,
        head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head),
    )


def _efficientnet_lite0() -> Any:
    return import_timm("model efficientnet_lite0").create_model("tf_efficientnet_lite0", pretrained=False)


def _efficientnet_lite0_stages(net: Any, head: nn.Module) -> Stages:
    # Seven rows of blocks in four stages, cut where the resolution halves, as in ResNet-50.
    blocks = list(net.blocks.children())
    return OrderedDict(
        stem=nn.Sequential(net.conv_stem, net.bn1, blocks[0]),
        layer1=blocks[1],
        layer2=blocks[2],
        layer3=nn.Sequential(blocks[3], blocks[4]),
        layer4=nn.Sequential(blocks[5], blocks[6], net.conv_head, net.bn2),
        head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head),
    )


MODELS: dict[str, Network] = {
    # torchvision's ImageNet mean .485 .456 .406 and std .229 .224 .225, each averaged: a slice has one channel
    "resnet50": Network(
        _resnet50, _resnet50_stages, "conv1", "fc", 2048, size=224, mean=0.449, std=0.226, imagenet=resnet50_imagenet
    ),
    # timm's configuration of tf_efficientnet_lite0
    "efficientnet_lite0": Network(
        _efficientnet_lite0,
        _efficientnet_lite0_stages,
        "conv_stem",
        "classifier",
        1280,
        size=224,
        mean=0.5,
        std=0.5,
        imagenet=efficientnet_lite0_imagenet,
    ),
}


def network_of(name: str) -> Network:
    """Look a network up, in MODELS or, as `timm:NAME`, in timm; an unknown name lists the known ones."""
    if name.startswith(TIMM):
        return timm_network(name.removeprefix(TIMM))
    if name not in MODELS:
        raise InputError(
            "model",
            found=repr(name),
            expected="one of " + ", ".join([*MODELS, f"{TIMM}NAME"]),
            fix="--set model=NAME",
        )
    return MODELS[name]


def network_for(config: TrainConfig) -> Network:
    """Look a run's network up, with the size of input that the run gives it."""
    network = network_of(config.model)
    return network if config.size is None else replace(network, size=config.size)


def build_model(name: str, *, classes: int, weights: str = "none", seed: int = 0, say: bool = False) -> nn.Sequential:
    """Build a network's stages for one-channel slices.

    Args:
        name: a key of MODELS, or `timm:NAME`.
        classes: outputs of the new head, which starts from small random weights.
        weights: `imagenet`, `none`, or the path of a file in the published network's layout, or of the weights of a
            model folder; of those the head counts as well where it has as many classes.
        seed: of everything random in it.
        say: log what was taken of published weights: for who trains on from them.

    Returns:
        (B, 1, size, size) float32 -> (B, classes) logits, in channels_last; its children are the stages, first to last.

    """
    network = network_of(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        published = network.build()
        head = nn.Linear(network.features, classes)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    state = {} if weights == "none" else network.imagenet() if weights == "imagenet" else read_weights(weights)
    ours = _is_ours(state, network, published, head)
    if state and not ours:
        _load(published, state, network, where=weights, say=say)
    one_channel(published, network.stem)
    model = nn.Sequential(network.stages(published, head))
    if ours:
        _load_ours(model, state, where=weights)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def is_ours(name: str, weights: str) -> bool:
    """Tell whether a file holds weights of this platform, a model folder's or a checkpoint's, or published ones."""
    network = network_of(name)
    with torch.random.fork_rng(devices=[]):
        published, head = network.build(), nn.Linear(network.features, 1)
    return _is_ours(read_weights(weights), network, published, head)


def _load(published: nn.Module, state: Mapping[str, Tensor], network: Network, *, where: str, say: bool) -> None:
    """Load the backbone; the classifier of the file is not used. Anything missing or misshapen is refused.

    A file may number the published network's children in their order instead of naming them, as RadImageNet's
    ResNet-50 does (Mei et al., 2022): `0` is conv1, `4` is layer1.
    """
    own = published.state_dict()
    names = [name for name, _ in published.named_children()]
    state = {_named(key, names): value for key, value in state.items()}
    wanted = {key for key in own if not key.startswith(network.head + ".") and "num_batches_tracked" not in key}
    taken = {key: value for key, value in state.items() if key in wanted and value.shape == own[key].shape}
    if len(taken) < len(wanted):
        missing = sorted(wanted - set(taken))
        raise InputError(
            f"weights {where}",
            found=f"{len(taken)} of the backbone's {len(wanted)} tensors; the first that is missing is {missing[0]}",
            expected="all of them, by the published network's names",
            fix="give a file of this network, or --set weights=none",
        )
    if say:
        left = ", ".join(sorted(key for key in state if key not in taken and "num_batches_tracked" not in key))
        log.info("weights %s: all %d tensors of the backbone; left: %s", where, len(taken), left or "none")
    published.load_state_dict(taken, strict=False)


def _named(key: str, children: Sequence[str]) -> str:
    """Name the child that a key begins with, where it is a number.

    >>> _named("1.weight", ["conv1", "bn1"]), _named("bn1.weight", ["conv1", "bn1"])
    ('bn1.weight', 'bn1.weight')
    """
    first, dot, rest = key.partition(".")
    return f"{children[int(first)]}{dot}{rest}" if first.isdecimal() and int(first) < len(children) else key


def _is_ours(state: Mapping[str, Tensor], network: Network, published: nn.Module, head: nn.Module) -> bool:
    """Tell a model folder's weights, which are named by stages, from published ones, even where some are missing."""
    names = published.state_dict().keys()
    own = nn.Sequential(network.stages(published, head)).state_dict().keys()
    return len(state.keys() & own) > len(state.keys() & names)


def _load_ours(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Load what a model folder holds of this network; the new head stays where the classes are of another number."""
    own = model.state_dict()
    other = [key for key, value in own.items() if key not in state or state[key].shape != value.shape]
    if set(state) != set(own) or any(not key.startswith("head.") for key in other):
        raise InputError(
            f"weights {where}",
            found=f"a model folder's weights, of which {len(own) - len(other)} of {len(own)} tensors fit",
            expected="those of the same network",
            fix="--set model=NAME as on the model's card",
        )
    model.load_state_dict({key: value for key, value in state.items() if key not in other}, strict=False)

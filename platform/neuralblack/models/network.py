"""A network as everything else knows it: how its stages are made, and the input that it was made for."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Stages = OrderedDict[str, nn.Module]


@dataclass(frozen=True)
class Network:
    """A row of MODELS, or one made from timm; three stages or more, `stem` first and `head` last."""

    build: Callable[[], Any]  # the published nn.Module: three channels, its own classes, random weights
    stages: Callable[[Any, nn.Module], Stages]  # (published network, new head) -> its stages, first to last
    stem: str  # the name of its first convolution; dots reach into modules
    head: str  # the name of its classifier
    features: int  # what the classifier takes
    size: int  # pixels a side
    mean: float  # of intensities in 0..1, the mean over RGB of the published values
    std: float
    imagenet: Callable[[], Mapping[str, Tensor]]  # the published weights; raises InputError where they can't be had

    @property
    def facts(self) -> dict[str, float]:
        """What a model's card keeps of it, so that a later version of timm changes nothing in how it is served."""
        return {"size": self.size, "mean": self.mean, "std": self.std}


def one_channel(published: nn.Module, stem: str) -> None:
    """Replace the first convolution's three input channels by their sum; torch's and timm's convolutions alike."""
    convolution = published.get_submodule(stem)
    assert isinstance(convolution, nn.Conv2d)
    convolution.weight = nn.Parameter(convolution.weight.detach().sum(1, keepdim=True))
    convolution.in_channels = 1

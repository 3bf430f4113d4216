"""An engine that computes nothing: what is left of a service's time is what its request path costs."""

import torch
from torch import Tensor

from neuralblack.inference.engines import Engine, Outputs, build_engine
from neuralblack.registry.model_folder import ModelFolder

EMPTY = "empty"


class EmptyEngine:
    """Zeros of the right shapes."""

    def __init__(self, folder: ModelFolder) -> None:
        self.name, self.reason, self.calls_at_once = EMPTY, "to measure what is around an engine", 1
        self._sizes = len(folder.classes), folder.network.features

    def __call__(self, images: Tensor) -> Outputs:
        """Answer one batch."""
        classes, features = self._sizes
        return Outputs(torch.zeros(len(images), classes), torch.zeros(len(images), features))


def engine_of(folder: ModelFolder, name: str) -> Engine:
    """Build a model folder's engine of that name, or the empty one."""
    return EmptyEngine(folder) if name == EMPTY else build_engine(folder, name=name)

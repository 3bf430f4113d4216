"""A network from stored pixels to logits and features as one module, for engines that compile all of it."""

import torch
from torch import Tensor, nn

from neuralblack.inference.outputs import pooled
from neuralblack.models.folding import fold_stages
from neuralblack.models.network import Network
from neuralblack.registry.model_folder import ModelFolder, load_weights


class WholeNetwork(nn.Module):
    """(B, S, S) uint8 -> (B, K) logits and (B, F) features; equals `eager` to fp32 rounding.

    The antialiased resize is linear and separable, so it is two products with fixed matrices: exact, and the same in
    every compiler, where an operator of its own is not.

    Args:
        stages: the network's stages in eval mode, head last.
        network: what it was made from.
        stored: pixels a side of stored slices.
        dtype: what the backbone computes in; the input and the head stay in float32.

    """

    resize: Tensor

    def __init__(
        self, stages: nn.Sequential, network: Network, *, stored: int, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self._scale, self._shift = 1 / (255 * network.std), network.mean / network.std
        self._dtype, self.stored, self._size = dtype, stored, network.size
        first, last, self.head = fold_stages(stages, size=network.size)
        self.backbone, self.last = first.to(dtype), last.to(dtype)
        self.register_buffer("resize", resize_matrix(stored, network.size))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run one batch."""
        pixels = images.float()
        if self.stored != self._size:
            pixels = self.resize @ pixels @ self.resize.T
        inputs = (pixels * self._scale - self._shift)[:, None].to(self._dtype)
        before = self.backbone(inputs.contiguous(memory_format=torch.channels_last))
        last = self.last(before).float()
        return self.head(last), pooled(before.float(), last)


def whole_network(folder: ModelFolder, *, dtype: torch.dtype = torch.float32) -> WholeNetwork:
    """Load a checked folder's weights as one module, on the CPU."""
    stages = load_weights(folder).requires_grad_(False)
    return WholeNetwork(stages, folder.network, stored=folder.spec.size, dtype=dtype).eval()


def resize_matrix(stored: int, size: int) -> Tensor:
    """Write torch's antialiased bilinear resize of one axis as a matrix, (size, stored) float32.

    It resizes the rows of an identity matrix: column i of the result is what pixel i adds to each output pixel.
    """
    identity = torch.eye(stored)[None, None]
    matrix = nn.functional.interpolate(identity, (size, stored), mode="bilinear", antialias=True, align_corners=False)
    return matrix[0, 0]

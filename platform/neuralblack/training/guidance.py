"""An optional loss term: the network finds what speaks for a tumour's class where the tumour is.

The class activation map (Zhou et al., 2016, "Learning deep features for discriminative localization") of a slice's
class is asked to lie in the box of its tumour. A dataset keeps boxes, not the outlines that they bound: on the last
maps, 7 x 7 for 224 pixels, a tumour covers few cells, and its outline is hardly another shape than its box.
"""

import torch
from torch import Tensor, nn

SHARE = 1e-4  # added to a share before its logarithm: a map wholly outside costs 9.2


class Guided(nn.Module):
    """Stages that learn, the last before the head among them: inputs -> (logits, class activation maps).

    One forward pass for both, as DDP and torch.compile want it. The stages stay those of the network.
    """

    def __init__(self, stages: nn.Sequential) -> None:
        super().__init__()
        line = line_of(stages)
        assert line is not None and len(stages) > 1
        self.below, self.head = stages[:-1], stages[-1]
        self.line = line

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, K) logits, (B, H, W, K) maps, whose mean over H and W is the logit less its bias."""
        last = self.below(inputs)
        return self.head(last), nn.functional.linear(last.movedim(1, -1), self.line.weight)


def line_of(stages: nn.Sequential) -> nn.Linear | None:
    """Find the linear layer of a head that takes the mean of the last maps; None where the head is another."""
    layers = list(stages[-1].children())
    if len(layers) != 3 or not isinstance(layers[0], nn.AdaptiveAvgPool2d) or not isinstance(layers[1], nn.Flatten):
        return None
    return layers[2] if layers[0].output_size in (1, (1, 1)) and isinstance(layers[2], nn.Linear) else None


def misplaced(maps: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
    """Measure how far from its box what speaks for a slice's class lies.

    The softmax of the map over its cells says where the class is found; the term is -log of how much of that lies in
    the box, each cell weighed with the share of it that the box covers, as a part of the best covered cell's. So it is
    0 where all lies in that cell, and 0 where no box is in sight. The share of the map's positive part, which a report
    counts, is no term: it moves no negative cell, and a map without any escapes it (docs/log.md).

    Args:
        maps: (B, H, W, K), class activation maps.
        labels: (B,) int64.
        boxes: (B, 1, S, S) float32 in 0..1, how much of each pixel the box covers; all 0 where there is none.

    Returns:
        (B,) float32, 0 to 9.2.

    """
    cover = nn.functional.adaptive_avg_pool2d(boxes, (maps.shape[1], maps.shape[2])).flatten(1)
    best = cover.amax(1)
    own = maps.float().gather(3, labels[:, None, None, None].expand(*maps.shape[:3], 1)).flatten(1)
    inside = (own.softmax(1) * cover).sum(1) / torch.where(best > 0, best, 1.0)
    return torch.where(best > 0, -torch.log((inside + SHARE).clamp(max=1.0)), 0.0)


def rasterised(boxes: Tensor, size: int) -> Tensor:
    """Draw boxes as how much of each pixel they cover.

    Args:
        boxes: (B, 4) as x0, y0, x1, y1, in shares of the side; negative where there is none.
        size: pixels a side.

    Returns:
        (B, 1, size, size) float32 in 0..1.

    """
    low = torch.arange(size, device=boxes.device, dtype=torch.float32)
    start, end = (size * boxes.float()[:, :, None]).split(2, dim=1)  # each (B, 2, 1): x, y
    across, down = (torch.minimum(end, low + 1) - torch.maximum(start, low)).clamp(0, 1).unbind(1)
    return (down[:, :, None] * across[:, None, :])[:, None]

"""Which part of a stored slice a network is shown: all of it, the head, or the region of its tumour.

A crop is as large as a stored slice, so everything behind it is the same for every choice. It is cut from the stored
pixels by `prepare`'s own filter, in training and in serving by this one function.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from neuralblack.data.dataset import Dataset
from neuralblack.data.shards import Images, ShardedImages
from neuralblack.data.slices import Box

MARGIN = 0.1  # around a tumour's box, as a share of its longer side
BRIGHT = 32  # of 0..255: what is brighter belongs to the head; the air around it is darker, with its noise
LEAST = 0.02  # share of a row or column that must be bright: noise, and the tip of an ear, is less
RIM = 0.02  # around the head, as a share of its longer side

WHOLE = "slice"  # the input that needs no cut

Pixels = NDArray[np.uint8]


def around(box: Box, margin: float, *, side: int) -> Box:
    """Widen a box by `margin` of its longer side and make it square, moved rather than cut at the slice's edge.

    >>> around((10, 10, 30, 20), 0.1, side=100), around((0, 90, 10, 100), 0.5, side=100)
    ((8, 3, 32, 27), (0, 80, 20, 100))
    """
    x0, y0, x1, y1 = box
    longer = max(x1 - x0, y1 - y0)
    size = min(side, longer + 2 * round(margin * longer))
    left, top = ((low + high - size) // 2 for low, high in ((x0, x1), (y0, y1)))
    left, top = (min(max(0, low), side - size) for low in (left, top))
    return left, top, left + size, top + size


def whole(pixels: Pixels, box: Box | None = None) -> Box:
    """Bound all of a slice; needs no box."""
    return 0, 0, len(pixels), len(pixels)


def head_region(pixels: Pixels, box: Box | None = None) -> Box:
    """Bound the head in a stored slice, (S, S), by a square; of a slice without one, all of it. Needs no box."""
    side = len(pixels)
    bright = pixels > BRIGHT
    columns, rows = (np.flatnonzero(bright.sum(axis) > LEAST * side) for axis in (0, 1))
    if not len(columns) or not len(rows):
        return whole(pixels)
    return around((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), RIM, side=side)


def tumour_region(pixels: Pixels, box: Box | None) -> Box:
    """Widen the box of a tumour in a stored slice by MARGIN, to a square."""
    assert box is not None, "who asks has seen to it that there is one"
    return around(box, MARGIN, side=len(pixels))


REGIONS: Mapping[str, Callable[[Pixels, Box | None], Box]] = {
    WHOLE: whole,
    "head": head_region,
    "roi": tumour_region,
}
NEED_BOX = ("roi",)


def crop(pixels: Pixels, region: Box) -> Pixels:
    """Cut a region and bring it to the slice's own size: (S, S) uint8 -> (S, S) uint8."""
    side = len(pixels)
    if region == whole(pixels):
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(picture.resize((side, side), Image.Resampling.BILINEAR, box=region))


def uncrop(shown: Pixels, region: Box) -> Pixels:
    """Put what was said of a crop, (S, S) uint8, back where it was cut: 0 outside."""
    if region == whole(shown):
        return shown
    x0, y0, x1, y1 = region
    back = np.zeros_like(shown)
    back[y0:y1, x0:x1] = np.asarray(Image.fromarray(shown).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR))
    return back


class Cropped:
    """Images of a dataset, (N, S, S) uint8, each cut to its region when it is read."""

    def __init__(self, images: Images, boxes: NDArray[np.int64], kind: str) -> None:
        """Know them; nothing is read yet. `boxes` (N, 4) in stored pixels, -1 where there is none."""
        self.shape, self.nbytes = images.shape, images.nbytes
        self._images, self._boxes, self._region = images, boxes, REGIONS[kind]

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Pixels:
        found, boxes = np.asarray(self._images[key]), self._boxes[key]
        if found.ndim == 2:
            return self._cut(found, boxes)
        return np.stack([self._cut(*each) for each in zip(found, boxes, strict=True)]) if len(found) else found

    def ahead(self, rows: NDArray[np.int64]) -> None:
        """Begin to fetch rows that will be asked for next, where they are not here."""
        if isinstance(self._images, ShardedImages):
            self._images.ahead(rows)

    def _cut(self, pixels: Pixels, box: NDArray[np.int64]) -> Pixels:
        return crop(pixels, self._region(pixels, box_at(box)))


def box_at(box: NDArray[np.int64]) -> Box | None:
    """Read one of a dataset's boxes; None where there is none."""
    x0, y0, x1, y1 = (int(edge) for edge in box)
    return None if x0 < 0 else (x0, y0, x1, y1)


def as_shown(dataset: Dataset, kind: str) -> Dataset:
    """Show a dataset as a network of this `input` sees it: its images cut; its boxes stay those of whole slices."""
    if kind == WHOLE:
        return dataset
    return replace(dataset, images=Cropped(dataset.images, dataset.boxes, kind))

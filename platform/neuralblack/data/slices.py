"""What every reader returns: one slice as it was recorded, with what its file says about it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuralblack.errors import InputError

MIN_SIDE, MAX_SIDE = 16, 2048  # pixels; below is no scan, above is no slice of one (and may be a bomb)
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Slice:
    """One MRI slice before preprocessing.

    `image` is (H, W), real numbers of any type, upright. `label` is a class of `neuralblack.labels`, `patient` the
    archive's own id; both None where the file says nothing of them. `box` bounds the tumour in pixels of `image` as
    (x0, y0, x1, y1), half-open; None where no mask or an empty one is given. `colour` is how far the picture was from
    grey: the mean of max(R, G, B) - min(R, G, B) over its pixels, 0..1.
    """

    image: NDArray[np.generic]
    label: str | None = None
    patient: str | None = None
    box: Box | None = None
    colour: float = 0.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A slice as a model takes it, and what its file showed that grey pixels cannot show any more.

    `pixels` is (S, S) uint8, all zero where the picture was blank. `colour` is that of `Slice`, 0..1. `box` bounds the
    tumour in `pixels`, where somebody has outlined it. `shape` is the height and width that it came in; None: its own.
    """

    pixels: NDArray[np.uint8]
    colour: float = 0.0
    box: Box | None = None
    shape: tuple[int, int] | None = None


def box_from(text: str) -> Box:
    """Read a box as people write it; raises InputError where it is no four whole numbers.

    >>> box_from("120,80,200,160")
    (120, 80, 200, 160)
    """
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.strip().isdecimal() and len(number) <= 6 for number in numbers):
        raise InputError(
            "box",
            found=repr(text[:40]),
            expected="x0,y0,x1,y1: four whole numbers, in pixels of the slice as it is shown",
            fix="for instance 120,80,200,160",
        )
    x0, y0, x1, y1 = (int(number) for number in numbers)
    return x0, y0, x1, y1


def check_sides(height: int, width: int, *, where: object) -> None:
    """Refuse a slice too small or too large to be one, before its pixels are decoded; raises InputError."""
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise InputError(
            where,
            found=f"an image of {width} x {height} pixels",
            expected=f"{MIN_SIDE} to {MAX_SIDE} pixels on each side",
            fix="export the slice at its own size",
        )


def box_of(mask: NDArray[np.generic]) -> Box | None:
    """Bound the non-zero pixels of an (H, W) mask, half-open; None where there are none.

    >>> mask = np.zeros((8, 8), bool)
    >>> mask[2:4, 5] = True
    >>> box_of(mask)
    (5, 2, 6, 4)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

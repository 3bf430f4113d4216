"""Solids and smooth noise in space, from which the phantoms are built: all are functions of points in millimetres."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

FAR = np.float32(15)  # millimetres: what is further away than this from a whole slice is not worked out


def vector(*values: float) -> Array:
    """Make a float32 array of these numbers."""
    return np.array(values, np.float32)


def ellipsoid(points: Array, centre: Sequence[float] | Array, radii: Sequence[float]) -> Array:
    """Signed distance to an ellipsoid, negative inside; exact on the surface, first order near it, FAR far away.

    Args:
        points: (3, ...) millimetres.
        centre, radii: three millimetres each.
    """
    if _is_far(points, np.subtract(centre, radii), np.add(centre, radii)):
        return np.full(points.shape[1:], FAR)
    offset = points - _column(centre, points)
    scaled = offset / _column(radii, points)
    length = np.sqrt(_squares(scaled))
    gradient = scaled / _column(radii, points)
    slope = np.sqrt(_squares(gradient)) + np.float32(1e-6)
    return np.asarray(length * (length - 1) / slope, np.float32)


def tube(points: Array, path: Sequence[Sequence[float]]) -> Array:
    """Signed distance to a bent tube, negative inside, FAR far away.

    Args:
        points: (3, ...) millimetres.
        path: the corners of its axis, each x, y, z and the radius there.
    """
    distances = [_segment(points, start, end) for start, end in pairwise(path)]
    return np.asarray(np.minimum.reduce(distances))


def cover(distance: Array, edge: float) -> Array:
    """How much of a pixel lies inside: 1 inside, 0 outside, a ramp `edge` millimetres wide between."""
    return np.asarray(np.clip(0.5 - distance / np.float32(edge), 0, 1), np.float32)


def paint(image: Array, amount: Array, value: Array | float) -> None:
    """Lay `value` over the image in place, `amount` (0..1) of it at each pixel."""
    image += (np.asarray(value, np.float32) - image) * amount


@dataclass(frozen=True)
class Waves:
    """Smooth noise in space: a sum of plane waves of random direction, mean 0 and root mean square about 1."""

    vectors: Array  # (K, 3) radians per millimetre
    phases: Array  # (K,)

    @classmethod
    def draw(cls, rng: np.random.Generator, *, wavelength: float, count: int = 12) -> "Waves":
        """Draw `count` waves whose length is about `wavelength` millimetres."""
        vectors = rng.normal(size=(count, 3))
        lengths = wavelength * rng.uniform(0.8, 1.25, (count, 1))
        vectors *= 2 * np.pi / lengths / np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(vectors.astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def __call__(self, points: Array) -> Array:
        """Evaluate at (3, ...) points."""
        flat = points.reshape(3, -1)
        total = np.zeros(flat.shape[1], np.float32)
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(vector @ flat + phase)
        return np.asarray(total.reshape(points.shape[1:]) * np.float32(np.sqrt(2 / len(self.phases))), np.float32)


def _segment(points: Array, start: Sequence[float], end: Sequence[float]) -> Array:
    first, last = np.array(start[:3], np.float32), np.array(end[:3], np.float32)
    thickest = max(start[3], end[3])
    if _is_far(points, np.minimum(first, last) - thickest, np.maximum(first, last) + thickest):
        return np.full(points.shape[1:], FAR)
    axis = last - first
    offset = points - _column(first, points)
    along = np.tensordot(axis / (axis @ axis), offset, 1).clip(0, 1)
    gap = offset - _column(axis, points) * along
    radius = np.float32(start[3]) + np.float32(end[3] - start[3]) * along
    return np.asarray(np.sqrt(_squares(gap)) - radius, np.float32)


def _column(values: Sequence[float] | Array, points: Array) -> Array:
    return np.asarray(values, np.float32).reshape(3, *[1] * (points.ndim - 1))


def _squares(vectors: Array) -> Array:
    return np.asarray(np.einsum("i...,i...->...", vectors, vectors), np.float32)


def _is_far(points: Array, low: NDArray[np.floating], high: NDArray[np.floating]) -> bool:
    """Whether the box from `low` to `high` is FAR from all points, seen on every eighth of them in each direction."""
    some = points[:, ::8, ::8] if points.ndim == 3 else points
    axes = tuple(range(1, some.ndim))
    margin = FAR + 8  # the points left out lie up to some millimetres beyond these
    return bool(((some.min(axes) > high + margin) | (some.max(axes) < low - margin)).any())

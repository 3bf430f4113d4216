"""What can happen to a slice before a model sees it, each at three strengths: (S, S) uint8 in, (S, S) uint8 out.

They are applied to prepared slices, and are crude on purpose: they ask whether a model falls over, not how an artefact
of a scanner comes about.
"""

import io
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, float, np.random.Generator], NDArray[np.floating] | Pixels]


class Disturbance(NamedTuple):
    """A change, and its three strengths with what they are called."""

    change: Change
    strengths: Mapping[str, float]


def disturb(image: Pixels, name: str, strength: str, *, seed: int = 0) -> Pixels:
    """Disturb a slice by a row of DISTURBANCES; the same seed gives the same noise."""
    row = DISTURBANCES[name]
    changed = row.change(image, row.strengths[strength], np.random.default_rng(seed))
    return np.clip(np.rint(changed), 0, 255).astype(np.uint8)


def _mirrored(image: Pixels, way: float, random: np.random.Generator) -> Pixels:
    return (image[:, ::-1], image[::-1], image.T)[int(way)]


def _rotated(image: Pixels, degrees: float, random: np.random.Generator) -> Pixels:
    turned: Pixels = ndimage.rotate(image, degrees, reshape=False, order=1)
    return turned


def _coarse(image: Pixels, share: float, random: np.random.Generator) -> Pixels:
    side = len(image)
    small = Image.fromarray(image).resize((round(side * share),) * 2, Image.Resampling.BOX)
    return np.asarray(small.resize((side, side), Image.Resampling.BILINEAR))


def _jpeg(image: Pixels, quality: float, random: np.random.Generator) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file))


def _gamma(image: Pixels, gamma: float, random: np.random.Generator) -> NDArray[np.floating]:
    return 255 * (image / 255) ** gamma


def _bias_field(image: Pixels, depth: float, random: np.random.Generator) -> NDArray[np.floating]:
    """Brighten one corner and darken the opposite one, as a receive coil's field does: from 1 - depth to 1 + depth."""
    ramp = np.linspace(-1, 1, len(image))
    return image * (1 + depth * (ramp[:, None] + ramp[None]) / 2)


def _noise(image: Pixels, sigma: float, random: np.random.Generator) -> NDArray[np.floating]:
    """Add Rician noise: a magnitude of two channels, each with Gaussian noise (Gudbjartsson and Patz, 1995)."""
    real, imaginary = random.normal(0, sigma, (2, *image.shape))
    noisy: NDArray[np.floating] = np.hypot(image + real, imaginary)
    return noisy


def _ghosts(image: Pixels, weight: float, random: np.random.Generator) -> NDArray[np.floating]:
    """Lay weaker copies over the slice, an eighth of it apart along the phase direction, as breathing does."""
    step = len(image) // 8
    copies = sum(np.roll(image, shift * step, axis=0).astype(float) / 2 for shift in (-1, 1))
    return (1 - weight) * image + weight * copies


def _blurred(image: Pixels, sigma: float, random: np.random.Generator) -> NDArray[np.floating]:
    blurred: NDArray[np.floating] = ndimage.gaussian_filter(image.astype(np.float32), sigma * len(image) / 256)
    return blurred


def _cropped(image: Pixels, share: float, random: np.random.Generator) -> Pixels:
    side, edge = len(image), round(share * len(image))
    inner = Image.fromarray(image[edge : side - edge, edge : side - edge])
    return np.asarray(inner.resize((side, side), Image.Resampling.BILINEAR))


DISTURBANCES: Mapping[str, Disturbance] = {
    "mirrored": Disturbance(_mirrored, {"left-right": 0, "upside down": 1, "transposed": 2}),
    "rotated": Disturbance(_rotated, {"5°": 5, "15°": 15, "90°": 90}),
    "coarser": Disturbance(_coarse, {"1/2": 1 / 2, "1/4": 1 / 4, "1/8": 1 / 8}),
    "JPEG": Disturbance(_jpeg, {"quality 75": 75, "quality 40": 40, "quality 10": 10}),
    "gamma": Disturbance(_gamma, {"0.8": 0.8, "1.5": 1.5, "2.5": 2.5}),
    "bias field": Disturbance(_bias_field, {"±20%": 0.2, "±50%": 0.5, "±90%": 0.9}),
    "noise": Disturbance(_noise, {"2%": 5, "6%": 15, "12%": 30}),
    "motion ghosts": Disturbance(_ghosts, {"10%": 0.1, "25%": 0.25, "50%": 0.5}),
    "blur": Disturbance(_blurred, {"1/256": 1, "2/256": 2, "4/256": 4}),
    "cropped": Disturbance(_cropped, {"5%": 0.05, "10%": 0.1, "20%": 0.2}),
}

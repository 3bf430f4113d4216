"""Made-up tumours that differ the way the real ones do: where they sit, how they take up contrast, what they push.

A meningioma grows from the dura and is evenly bright on a broad base; a glioma grows in the brain, an irregular
bright ring about a dead core in a dim swollen surround, or a faint patch; a pituitary tumour rises in the midline
from the sella. Places are millimetres in the axes of `phantom_anatomy`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.phantom_anatomy import CSF, cavity
from neuralblack.data.phantom_shapes import Array, Waves, cover, ellipsoid, paint, vector

SELLA = (0.0, 3.0, -31.0)
MIDDLE = vector(0, -17, 14)  # of the vault: meningiomas are looked for along rays from here


@dataclass(frozen=True)
class Tumour:
    """One mass. `radius` is in millimetres, `brightness` on the scale of `phantom_anatomy`."""

    label: str
    centre: NDArray[np.float32]  # (3,)
    radius: float
    brightness: float
    squeeze: float  # the part of its volume by which it pushes the brain aside
    variant: str  # "skull" or "falx"; "ring" or "faint"; "solid" or "cyst"
    rough: Waves  # its outline
    grain: Waves  # its inside

    def push(self, points: Array) -> Array:
        """Where the tissue at `points` was before the mass grew: spheres about it keep their volume. (3, H, W)."""
        offset = points - self.centre[:, None, None]
        distance = np.sqrt((offset * offset).sum(0)) + np.float32(1e-3)
        before = np.cbrt(np.maximum(distance**3 - np.float32(self.squeeze * self.radius**3), 0))
        return np.asarray(self.centre[:, None, None] + offset * (before / distance), np.float32)

    @property
    def middle(self) -> Array:
        """Where a slice shows it well, (3,): what lies beyond the dura or in the bone is not seen."""
        if self.label == "pituitary":
            return self.centre + vector(0, 0, 0.35 * self.radius)
        inward = MIDDLE - self.centre
        depth = 0.25 * self.radius if self.variant == "skull" else 0.0
        return np.asarray(self.centre + inward * np.float32(depth / np.linalg.norm(inward)), np.float32)

    def draw(self, image: Array, points: Array, *, edge: float) -> Array:
        """Paint the mass into an image of `draw_head`, in place.

        Args:
            image: (H, W).
            points: (3, H, W) atlas millimetres.
            edge: millimetres over which a border blurs.

        Returns:
            (H, W) the tumour's distance, negative inside: the swelling around it is not part of it.
        """
        return PAINTERS[self.label](self, image, points, edge)


def draw_tumour(rng: np.random.Generator, label: str) -> Tumour | None:
    """Draw a tumour of this class, a different place, size and strength each time; None for no tumour."""
    return PLACES[label](rng) if label in PLACES else None


def _place_meningioma(rng: np.random.Generator) -> Tumour:
    radius = rng.uniform(13, 27)
    side = rng.choice([-1.0, 1.0])
    if rng.uniform() < 0.2:
        variant = "falx"
        centre = vector(side * 0.5 * radius, rng.uniform(-60, 45), rng.uniform(40, 56))
    else:
        variant = "skull"
        turn, rise = rng.uniform(-np.pi / 2, np.pi / 2), np.arcsin(rng.uniform(-0.35, 0.95))
        ray = vector(side * np.cos(rise) * np.cos(turn), np.cos(rise) * np.sin(turn), np.sin(rise))
        steps = np.arange(20, 130, 0.5, dtype=np.float32)
        inside = cavity(MIDDLE[:, None] + ray[:, None] * steps) < 0
        reach = steps[np.flatnonzero(~inside)[0]]
        centre = MIDDLE + ray * np.float32(reach - rng.uniform(0.25, 0.6) * radius)
    return _tumour(rng, "meningioma", centre, radius, rng.uniform(0.62, 0.82), 0.6, variant, roughness=22)


def _place_glioma(rng: np.random.Generator) -> Tumour:
    radius = rng.uniform(14, 28)
    centre = vector(rng.choice([-1, 1]) * rng.uniform(14, 40), rng.uniform(-60, 42), rng.uniform(-8, 46))
    toward = np.float32(min(1.0, 46 / float(np.linalg.norm((centre - MIDDLE) * vector(1.2, 0.9, 1.1)))))
    centre = MIDDLE + (centre - MIDDLE) * toward  # away from the bone: it is a tumour of the brain
    variant = "faint" if rng.uniform() < 0.15 else "ring"
    return _tumour(rng, "glioma", centre, radius, rng.uniform(0.66, 0.88), 0.3, variant, roughness=1.5 * radius)


def _place_pituitary(rng: np.random.Generator) -> Tumour:
    centre = vector(*SELLA) + rng.normal(0, 1, 3).astype(np.float32)
    variant = "cyst" if rng.uniform() < 0.2 else "solid"
    return _tumour(rng, "pituitary", centre, rng.uniform(7.5, 14), rng.uniform(0.58, 0.82), 0.5, variant, roughness=16)


def _tumour(
    rng: np.random.Generator,
    label: str,
    centre: NDArray[np.float32],
    radius: float,
    brightness: float,
    squeeze: float,
    variant: str,
    *,
    roughness: float,
) -> Tumour:
    rough, grain = Waves.draw(rng, wavelength=roughness, count=8), Waves.draw(rng, wavelength=13, count=8)
    return Tumour(label, centre.astype(np.float32), float(radius), float(brightness), squeeze, variant, rough, grain)


def _draw_meningioma(tumour: Tumour, image: Array, points: Array, edge: float) -> Array:
    inner = cavity(points)
    ball = _ball(tumour, points, roughness=0.08)
    side = np.float32(np.sign(tumour.centre[0]))
    wall = inner if tumour.variant == "skull" else np.maximum(-side * points[0], inner)
    body = np.maximum(ball, wall)
    paint(image, cover(np.maximum(np.abs(ball - 1) - np.float32(0.7), inner + 2), edge) * np.float32(0.7), CSF)
    thick = np.float32(0.16 * tumour.radius) * (1 - ball / np.float32(0.8 * tumour.radius))
    tail = np.maximum(np.abs(wall) - np.clip(thick, 0, 3), ball - np.float32(0.8 * tumour.radius))
    paint(image, cover(np.maximum(tail, wall - 1), edge) * (thick > 0), tumour.brightness * 0.95)
    paint(image, cover(body, edge), tumour.brightness + np.float32(0.02) * tumour.grain(points))
    return np.asarray(body, np.float32)


def _draw_glioma(tumour: Tumour, image: Array, points: Array, edge: float) -> Array:
    brain = cavity(points) + np.float32(4)
    ball = _ball(tumour, points, roughness=0.22)
    body = np.maximum(ball, brain)
    grain = tumour.grain(points)
    swelling = np.maximum(ball - np.float32(0.45 * tumour.radius) * (1 + 0.6 * tumour.rough(points * 0.6)), brain)
    paint(image, cover(swelling, 7) * np.float32(0.62) * cover(0.25 - image, 0.2), 0.27)
    core = 0.19 + 0.015 * grain
    if tumour.variant == "faint":
        paint(image, cover(body, 3 * edge) * np.float32(0.9), core + 0.04)
        paint(
            image, cover(body + 2, 2 * edge) * cover(np.float32(0.9) - grain, 0.8) * np.float32(0.8), tumour.brightness
        )
        return np.asarray(body, np.float32)
    rim = np.float32(0.11 * tumour.radius + 1.5) * (1 + 0.5 * grain).clip(0.4, 2)
    paint(image, cover(body, 1.5 * edge), tumour.brightness * (0.92 + 0.10 * grain))
    paint(image, cover(body + rim, 1.5 * edge), core)
    return np.asarray(body, np.float32)


def _draw_pituitary(tumour: Tumour, image: Array, points: Array, edge: float) -> Array:
    radius = tumour.radius
    outline = np.float32(0.07 * radius) * tumour.rough(points)
    lower = ellipsoid(points, tumour.centre, (1.15 * radius, radius, 0.85 * radius))
    upper = ellipsoid(points, tumour.centre + vector(0, 0, 0.85 * radius), (0.85 * radius, 0.8 * radius, 0.8 * radius))
    body = np.minimum(lower, upper) + outline
    paint(image, cover(np.maximum(np.abs(body - 1) - np.float32(0.8), 0), edge), CSF)
    paint(image, cover(body, edge), tumour.brightness + np.float32(0.025) * tumour.grain(points))
    if tumour.variant == "cyst":
        paint(image, cover(upper + np.float32(0.35 * radius), 1.5 * edge), 0.24)
    return np.asarray(body, np.float32)


def _ball(tumour: Tumour, points: Array, *, roughness: float) -> Array:
    offset = points - tumour.centre[:, None, None]
    distance = np.sqrt((offset * offset).sum(0))
    outline = 1 + np.float32(roughness) * tumour.rough(points)
    return np.asarray(distance - np.float32(tumour.radius) * outline, np.float32)


PLACES: dict[str, Callable[[np.random.Generator], Tumour]] = {
    "meningioma": _place_meningioma,
    "glioma": _place_glioma,
    "pituitary": _place_pituitary,
}
PAINTERS: dict[str, Callable[[Tumour, Array, Array, float], Array]] = {
    "meningioma": _draw_meningioma,
    "glioma": _draw_glioma,
    "pituitary": _draw_pituitary,
}

"""The gate: says that a picture is unlike the slices a model learnt from, before any label is given to it.

Two stages. Before the network, a few numbers of the pixels, each with a limit that the training and validation slices
keep (nothing was learnt from those numbers, so both count alike); they cost a fraction of a millisecond and can be said
in words. Behind it, the distance of the network's features from those of the
training slices, for what the pixels do not tell. A slice that passes may still be none of the classes: the gate says
only "not like what it learnt", and a slice that the classes share is for the prediction set to say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.slices import Prepared

COLOUR = 0.03  # fixed, as slices of a dataset are grey; a grey slice saved as an RGB JPEG stays below 0.01
DARK = 16  # of 255: below is background
FRAME = 1 / 32  # of the side: the strip along each edge that `edges` looks at
RATE = 0.0005  # of slices beyond each limit of the pixels; what gets past them, the features find
DISTANCE_RATE = 0.01  # of held-out slices beyond the limit of the distance
ENOUGH = 30  # held-out slices; of fewer a model gets no limits
DIRECTIONS = 64  # of the features, at most, whose own variance is used; the others share one

REASONS: dict[str, str] = {
    "colour": "The picture is in colour; an MRI slice is grey.",
    "blank": "The picture shows nothing: it has no contrast.",
    "noise": "Neighbouring pixels have too little to do with each other, as in noise.",
    "smooth": "Neighbouring pixels are too much alike, as in a drawing or a gradient.",
    "edges": "The picture is bright up to its edges; around a head it is dark.",
    "background": "There is less dark background than around a head.",
    "empty": "Almost all of the picture is dark.",
    "flat": "Large areas have exactly the same brightness, as in a drawing, a text or a screenshot.",
    "features": "The network sees something unlike the slices that it learnt from.",
    "no_box": "This model judges a tumour that somebody has marked, and no box is given. Draw one around the tumour.",
}
CHECKS: dict[str, tuple[str, bool]] = {
    # reason: the number of `measure`, whether above its limit (or below) is refused
    "noise": ("likeness", False),
    "smooth": ("likeness", True),
    "edges": ("edges", True),
    "background": ("dark", False),
    "empty": ("dark", True),
    "flat": ("flat", True),
}


@dataclass(frozen=True)
class Reason:
    """Why there is no label: a word for programs (a key of REASONS), a sentence for people."""

    code: str
    sentence: str


def measure(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a prepared slice, (S, S) uint8, in what tells pictures from slices; every fourth row is enough.

    Returns:
        likeness: correlation of horizontal neighbours, 1 for what is smooth, 0 for white noise.
        edges: brightness 0..1 of the darker of two opposite edges, the larger of both pairs; one bright edge is a neck,
            and two dark ones are what padding to a square adds.
        dark: share of background pixels.
        flat: share of equal horizontal neighbours among pixels that are neither background nor saturated.
    """
    strip = max(1, int(len(pixels) * FRAME))
    top, bottom, left, right = (
        float(part.mean()) / 255 for part in (pixels[:strip], pixels[-strip:], pixels[:, :strip], pixels[:, -strip:])
    )
    rows = pixels[::4]
    values = rows.astype(np.float32)
    first, second = values[:, :-1], values[:, 1:]
    difference = first - second
    variance = float(values.var())
    shown = (rows[:, :-1] >= DARK) & (rows[:, :-1] < 255)
    return {
        "likeness": 1 - float((difference * difference).mean()) / (2 * variance) if variance else 1.0,
        "edges": max(min(top, bottom), min(left, right)),
        "dark": float((rows < DARK).mean()),
        "flat": float(((difference == 0) & shown).sum() / max(1, shown.sum())),
    }


def limit(values: NDArray[np.floating], *, rate: float, above: bool) -> float:
    """Find the limit that a share of `rate` of the values is beyond.

    Where there are too few values for one of them to be beyond it, it lies a standard deviation outside them all: the
    extreme of 50 slices would refuse one in 50 of the next.
    """
    side = values if above else -values
    outside = float(side.max() + side.std()) if len(side) * rate < 1 else float(np.quantile(side, 1 - rate))
    return outside if above else -outside


def fit_checks(slices: Iterable[NDArray[np.uint8]]) -> dict[str, float]:
    """Take each check's limit from slices, each (S, S) uint8, such as a person could have uploaded."""
    table = [measure(pixels) for pixels in slices]
    return {
        code: limit(np.array([row[name] for row in table]), rate=RATE, above=above)
        for code, (name, above) in CHECKS.items()
    }


@dataclass(frozen=True, eq=False)
class Cloud:
    """Where a network's features of the training slices lie: one Gaussian around each class, of one shape.

    The shape is that of probabilistic PCA (Tipping and Bishop, 1999): a variance for each of the D widest directions,
    and one for all others, which fits a covariance of F x F from fewer slices than F.

    mean (K, F), directions (F, D) orthonormal, variances (D,), rest (1,); float32.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    variances: NDArray[np.float32]
    rest: NDArray[np.float32]

    @classmethod
    def fit(cls, features: NDArray[np.float32], labels: NDArray[np.int64], *, classes: int) -> "Cloud":
        """Fit to the features, (N, F), of training slices; every class has some."""
        mean = np.stack([features[labels == index].mean(0) for index in range(classes)])
        centred = features - mean[labels]
        count, width = centred.shape
        most = max(1, min(DIRECTIONS, width // 2, (count - classes) // 4))
        _, sizes, rows = np.linalg.svd(centred, full_matrices=False)
        variances = sizes**2 / max(1, count - classes)
        rest = variances[most:].sum() / max(1, width - most)
        floor = 1e-6 * float(variances.sum()) + 1e-12  # a network may have features that never fire
        kept = np.maximum(variances[:most], floor)
        return cls(
            mean.astype(np.float32),
            rows[:most].T.astype(np.float32),
            kept.astype(np.float32),
            np.array([max(rest, floor)], np.float32),
        )

    def distance(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mahalanobis distance to the nearest class's mean: (B, F) -> (B,), over sqrt(F), so about 1 for a slice.

        As a sign of novelty: Lee et al., 2018, "A simple unified framework for detecting out-of-distribution samples".
        """
        offset = features[:, None] - self.mean
        along = offset @ self.directions
        across = (offset * offset).sum(2) - (along * along).sum(2)
        squares = (along * along / self.variances).sum(2) + np.maximum(across, 0) / self.rest
        nearest: NDArray[np.float32] = np.sqrt(squares.min(1) / features.shape[1])
        return nearest

    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """Give what its constructor takes, in that order, contiguous."""
        return self.mean, np.ascontiguousarray(self.directions), self.variances, self.rest


class Gate:
    """Both stages with the limits of one model; without limits only what is certain, colour and blankness."""

    def __init__(self, limits: Mapping[str, Any] | None = None, cloud: Cloud | None = None) -> None:
        self._limits, self._cloud = dict(limits or {}), cloud

    def before(self, question: Prepared) -> tuple[Reason, ...]:
        """Find what speaks against a slice in its pixels; empty where nothing does."""
        found = ["colour"] if question.colour > COLOUR else []
        if not question.pixels.any():
            return _reasons([*found, "blank"])
        numbers = measure(question.pixels) if self._limits else {}
        for code, (name, above) in CHECKS.items():
            if code in self._limits and _beyond(numbers[name], self._limits[code], above=above):
                found.append(code)
        return _reasons(found)

    def distance(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say how far slices lie from the training slices, as `Cloud.distance`; 0 where the model has no cloud."""
        return self._cloud.distance(features) if self._cloud else np.zeros(len(features), np.float32)

    def behind(self, features: NDArray[np.float32]) -> list[tuple[Reason, ...]]:
        """Find what speaks against slices in their features, (B, F)."""
        far = self.distance(features) > self._limits.get("features", np.inf)
        return [_reasons(["features"] if one else []) for one in far]


def _beyond(value: float, limit_: float, *, above: bool) -> bool:
    return value > limit_ if above else value < limit_


def _reasons(codes: list[str]) -> tuple[Reason, ...]:
    return tuple(Reason(code, REASONS[code]) for code in codes)

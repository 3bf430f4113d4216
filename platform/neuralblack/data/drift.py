"""Drift: how slices that come differ from those that a model learnt from, statistic by statistic.

Each statistic is counted in bins, against the shares of the training slices in the same bins; answers against those of
the validation part, whose patients the network did not learn from. The difference of two histograms is the population
stability index, sum of (seen - expected) ln(seen / expected), the symmetric Kullback-Leibler divergence; in credit
scoring, where it comes from, below 0.1 counts as stable and above 0.25 as another population (Siddiqi, 2006, "Credit
risk scorecards").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

DARK = 16  # of 255: below is background
STEP = 8  # every eighth row and column is enough
BINS = 10  # deciles of the training slices
MODERATE, LARGE = 0.1, 0.25
LEAST = 200  # slices; of fewer the index is mostly chance
LABEL, CONFIDENCE, REFUSED = "label", "confidence", "refused"
STATISTICS = {
    # name, as `statistics_of` gives it: what a change of it tells
    "brightness": "mean of the head, of 1: another window, gain or contrast agent",
    "contrast": "standard deviation of the head, of 1: another window or sequence",
    "head": "share of the picture that is not dark: another crop, or padding",
    "sharpness": "mean step between neighbours in the head, of 1: another resolution, filter, or noise",
    CONFIDENCE: "probability of the first class: slices that the model is less, or more, sure of",
    LABEL: "what is answered, or refused: another mix of patients, or another scanner",
}
Reference = Mapping[str, Any]


def statistics_of(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a prepared slice, (S, S) uint8, in some fifty microseconds; the head is what is not dark."""
    left, right = pixels[::STEP, :-1:STEP], pixels[::STEP, 1::STEP]
    shown = left >= DARK
    values = left[shown].astype(np.float32) / 255
    if not len(values):
        return {"brightness": 0.0, "contrast": 0.0, "head": 0.0, "sharpness": 0.0}
    neighbours = right[shown].astype(np.float32) / 255
    return {
        "brightness": float(values.mean()),
        "contrast": float(values.std()),
        "head": float(shown.mean()),
        "sharpness": float(np.abs(values - neighbours).mean()),
    }


def fit_reference(
    slices: Sequence[Mapping[str, float]], confidences: NDArray[np.floating], labels: Mapping[str, int]
) -> dict[str, Any]:
    """Describe what is expected.

    Args:
        slices: `statistics_of` training slices.
        confidences: (M,) top probabilities of validation slices that were not refused.
        labels: how often each label was the answer to a validation slice; REFUSED counts as one.

    Returns:
        name -> bins, the upper edge of each as text ("+Inf" the last) or the labels; shares, of each; slices, how many.
    """
    found = {name: _numbers(np.array([one[name] for one in slices])) for name in slices[0]}
    if len(confidences):
        found[CONFIDENCE] = _numbers(confidences)
    total = sum(labels.values())
    shares = [count / total for count in labels.values()]
    return found | {LABEL: {"bins": list(labels), "shares": shares, "slices": total}}


def bin_of(value: float, bins: Sequence[str]) -> str:
    """Find the bin of a number: the first whose upper edge it does not exceed.

    >>> bin_of(0.2, ["0.1", "0.2", "+Inf"]), bin_of(0.21, ["0.1", "0.2", "+Inf"])
    ('0.2', '+Inf')
    """
    return next(each for each in bins if value <= float(each))


def stability_index(shares: Sequence[float], counts: Sequence[int]) -> float:
    """Compute the population stability index of counted slices against expected shares.

    Half a slice is added to each bin on both sides, so that an empty one is no infinity.

    >>> round(stability_index([0.5, 0.5], [750, 250]), 2), stability_index([0.5, 0.5], [400, 400])
    (0.27, 0.0)
    """
    total, bins = sum(counts), len(counts)
    seen = (np.array(counts, np.float64) + 0.5) / (total + bins / 2)
    expected = (np.array(shares, np.float64) * total + 0.5) / (total + bins / 2)
    return float(((seen - expected) * np.log(seen / expected)).sum())


def chance(bins: int, slices: int, reference: int) -> float:
    """Say how large the index gets by chance alone, in 95 of 100 cases.

    Without drift it is distributed as (1 / slices + 1 / reference) times chi squared with bins - 1 degrees of freedom
    (Yurdakul and Naranjo, 2020, "Statistical properties of the population stability index"). Slices of one patient are
    alike, so this is too small where patients are few.

    >>> round(chance(10, 1000, 2000), 3)
    0.025
    """
    return float(chi2.ppf(0.95, max(1, bins - 1)) * (1 / slices + 1 / reference))


def verdict(index: float, *, bins: int, slices: int, reference: int) -> str:
    """Say an index in words."""
    if slices < LEAST:
        return f"too few slices to say: {slices} of {LEAST}"
    if index < max(MODERATE, chance(bins, slices, reference)):
        return "as expected"
    return "drifts" if index < LARGE else "DRIFTS FAR"


def _numbers(values: NDArray[np.floating]) -> dict[str, Any]:
    """Cut numbers at their deciles; where many are equal there are fewer bins."""
    edges = sorted({float(f"{edge:.4g}") for edge in np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1])})
    index = np.searchsorted(edges, values, side="left")
    counts = np.bincount(index, minlength=len(edges) + 1)
    return {
        "bins": [*(f"{edge:g}" for edge in edges), "+Inf"],
        "shares": (counts / len(values)).tolist(),
        "slices": len(values),
    }

"""Medians and intervals over rounds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A median over rounds, and where 95% of medians of resampled rounds lie."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def bootstrap(values: Sequence[float], *, draws: int = 10_000, seed: int = 0) -> Interval:
    """Resample rounds with replacement; percentile interval of the median (Efron 1979).

    Of five rounds it is nearly the smallest and the largest: few rounds cannot say more. Nothing gives NaN.
    """
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    array = np.asarray(values, float)
    chosen = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.percentile(np.median(array[chosen], axis=1), [2.5, 97.5])
    return Interval(float(np.median(array)), float(low), float(high))


def paired_ratio(ours: dict[int, float], theirs: dict[int, float]) -> Interval:
    """Divide round by round, as both were measured a few seconds apart, and take the interval over rounds.

    Args:
        ours, theirs: round -> value; rounds that only one has are left out.
    """
    return bootstrap([ours[number] / theirs[number] for number in sorted(ours) if theirs.get(number)])

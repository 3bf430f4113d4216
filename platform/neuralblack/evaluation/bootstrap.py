"""Confidence intervals by resampling patients: slices of one patient resemble each other, so they are no draws."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
LEVEL = 0.95


def interval(
    score: Callable[[NDArray[np.int64]], float], patients: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Bound a score by the percentile bootstrap over patients (Efron, 1979), at LEVEL.

    Args:
        score: indices of slices, (M,) with repetitions -> a number, NaN where it cannot be counted.
        patients: of every slice; all slices of a patient are drawn together.
        draws: how often.
        seed: the same seed draws the same patients.

    Returns:
        The lower and the upper bound.

    """
    names, numbers = np.unique(np.asarray(patients), return_inverse=True)
    slices = [np.flatnonzero(numbers == number) for number in range(len(names))]
    random = np.random.default_rng(seed)
    found = [
        score(np.concatenate([slices[number] for number in random.integers(len(names), size=len(names))]))
        for _ in range(draws)
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return float(low), float(high)

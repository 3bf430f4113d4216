"""Confidence intervals by resampling patients: slices of one patient resemble each other, so they are no draws.

A resampled set of patients is a weight for each slice: how often its patient was drawn. So every number of all
resampled sets is counted at once, without copying a slice (`scores`), and a test holds it equal to `metrics.summarise`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.evaluation.patients import Slices
from neuralblack.metrics import BINS, COVERAGE, bin_of, calibration_error, losses, squares

DRAWS = 2000
LEVEL = 0.95
PIECE = 250  # draws at a time: 3,064 slices' weights are then 6 MB

Floats = NDArray[np.float64]
Scores = dict[str, Floats]


def intervals(*repetitions: Slices, classes: Sequence[str], draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Bound every number of `metrics.summarise` by the percentile bootstrap over patients (Efron, 1979), at LEVEL.

    But the calibration error by the basic bootstrap (Davison and Hinkley, 1997, 5.2), not below 0: it is a sum of
    absolute values, which every resampling raises once more, so that percentiles lie above what they should bound. It
    is a rough one all the same: the error of few slices is above 0 by chance alone, so that its lower end may be, too,
    and where it would end below what was measured, it ends there.

    Args:
        repetitions: what models said of slices of the same patients, one for each seed; their mean is bounded.
        classes: the K names.
        draws: how often; all slices of a patient are drawn together, and the same patients in every repetition.
        seed: the same seed draws the same patients.

    Returns:
        The names of `summarise`, each with [low, high], and `per_class` likewise; None where fewer than two patients or
        too few draws (less than half) could show the number, or where all draws show the same: without a single error
        they know nothing of how many there might be.

    """
    alone = len(set(repetitions[0].patients)) < 2
    draws_of = _resampled([(each,) for each in repetitions], lambda one: one, draws=draws, seed=seed)
    bounds = {name: None if alone or _is_constant(values) else bounded(values) for name, values in draws_of.items()}
    if (drawn := bounds["ece"]) is not None:
        errors = [calibration_error(each.labels, each.probabilities, each.models) for each in repetitions]
        measured = float(np.mean(errors))
        low, high = (max(0.0, 2 * measured - end) for end in reversed(drawn))
        bounds["ece"] = [low, max(high, measured)]
    found: dict[str, Any] = {name: value for name, value in bounds.items() if "/" not in name}
    found["per_class"] = {
        label: {name.partition("/")[0]: value for name, value in bounds.items() if name.endswith(f"/{index}")}
        for index, label in enumerate(classes)
    }
    return found


def bounded(values: Floats) -> list[float] | None:
    """Take the middle LEVEL of draws, [low, high]; NaN is a draw that could not show the number."""
    known = values[~np.isnan(values)]
    if 2 * len(known) < len(values) or not len(known):
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return [float(low), float(high)]


def _is_constant(values: Floats) -> bool:
    known = values[~np.isnan(values)]
    return len(known) > 0 and float(np.ptp(known)) < 1e-12


def drawn_weights(patients: Sequence[str], *, draws: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """Draw as many patients as there are, with replacement, `draws` times: pieces of (up to PIECE, N) weights."""
    names, numbers = np.unique(np.asarray(patients), return_inverse=True)
    random = np.random.default_rng(seed)
    for start in range(0, draws, PIECE):
        size = min(PIECE, draws - start)
        yield random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)[:, numbers].astype(float)


def scores(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    weights: Floats,
    models: NDArray[np.int64] | None = None,
) -> Scores:
    """Count the numbers of `metrics.summarise` for D weightings of N slices at once.

    Args:
        labels: (N,) true classes.
        probabilities: (N, K).
        weights: (D, N), how often each slice counts.
        models: (N,) as of `summarise`.

    Returns:
        name -> (D,), and `name/k` for class k against the rest; NaN where nothing was measured.

    """
    classes, shares = probabilities.shape[1], probabilities.astype(np.float64)
    given = shares.argmax(1)
    pairs = np.eye(classes * classes)[labels * classes + given]
    confusion = (weights @ pairs).reshape(-1, classes, classes)
    whole = weights.sum(1)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    true, taken = confusion.sum(2), confusion.sum(1)
    rest = whole[:, None] - true - taken + hits
    with np.errstate(divide="ignore", invalid="ignore"):
        each = {
            "sensitivity": hits / true,
            "specificity": rest / (rest + taken - hits),
            "precision": hits / taken,
            "f1": 2 * hits / (true + taken),
            "auroc": np.stack([_auroc(labels == index, shares[:, index], weights) for index in range(classes)], 1),
        }
        found = {
            "accuracy": hits.sum(1) / whole,
            "balanced_accuracy": _mean_of_known(each["sensitivity"]),
            "macro_f1": _mean_of_known(each["f1"]),
            "mcc": _matthews(hits, true, taken, whole),
            "log_loss": weights @ losses(labels, shares) / whole,
            "brier": weights @ squares(labels, shares) / whole,
            "ece": _calibration_error(labels == given, shares.max(1), weights, bin_of(shares.max(1), models)) / whole,
            "accuracy_at_90": _accuracy_at_coverage(labels == given, shares.max(1), weights),
        }
    for name, values in each.items():
        found |= {f"{name}/{index}": values[:, index] for index in range(classes)}
    return found


def differences(
    *repetitions: tuple[Slices, Slices], draws: int = DRAWS, seed: int = 0
) -> dict[str, list[float] | None]:
    """Bound how much higher one model's numbers are than another's, on the same slices, drawing the same patients.

    Args:
        repetitions: what both said, ours first, a pair for each seed; the mean over them is bounded.
        draws, seed: as of `intervals`.

    Returns:
        name -> [low, high] of ours minus theirs, for the numbers over all classes; None where fewer than two patients
        or too few draws could show it.

    """
    alone = len(set(repetitions[0][0].patients)) < 2
    found = _resampled(repetitions, _gaps, draws=draws, seed=seed)
    return {name: None if alone else bounded(values) for name, values in found.items()}


def _gaps(ours: Scores, theirs: Scores) -> Scores:
    return {name: ours[name] - theirs[name] for name in ours if "/" not in name}


def _resampled(
    repetitions: Sequence[tuple[Slices, ...]], count: Callable[..., Scores], *, draws: int, seed: int
) -> Scores:
    """Draw patients, and average over repetitions what `count` makes of the scores of a repetition's models.

    Returns:
        name -> (draws,), for the names that `count` gives.

    """
    found: dict[str, list[Floats]] = {}
    drawn = (drawn_weights(some[0].patients, draws=draws, seed=seed) for some in repetitions)
    for weights in zip(*drawn, strict=True):
        counted = [
            count(*(scores(each.labels, each.probabilities, one, each.models) for each in some))
            for some, one in zip(repetitions, weights, strict=True)
        ]
        for name in counted[0]:
            found.setdefault(name, []).append(np.mean([each[name] for each in counted], axis=0))
    return {name: np.concatenate(values) for name, values in found.items()}


def _mean_of_known(values: Floats) -> Floats:
    known = ~np.isnan(values)
    mean: Floats = np.where(known, values, 0).sum(1) / known.sum(1)
    return mean


def _matthews(hits: Floats, true: Floats, taken: Floats, whole: Floats) -> Floats:
    """Correlate true and predicted classes (Gorodkin, 2004, "Comparing two K-category assignments")."""
    above = hits.sum(1) * whole - (true * taken).sum(1)
    below: Floats = np.sqrt(whole**2 - (taken**2).sum(1)) * np.sqrt(whole**2 - (true**2).sum(1))
    correlation: Floats = above / below
    return correlation


def _calibration_error(right: NDArray[np.bool_], top: Floats, weights: Floats, bins: NDArray[np.int64]) -> Floats:
    gaps = weights @ (np.eye(max(BINS, bins.max() + 1))[bins] * (right - top)[:, None])
    total: Floats = np.abs(gaps).sum(1)
    return total


def _accuracy_at_coverage(right: NDArray[np.bool_], top: Floats, weights: Floats) -> Floats:
    order = np.argsort(-top, kind="stable")
    starts = np.flatnonzero(np.diff(-top[order], prepend=-np.inf))  # of equal values, which count alike
    sorted_weights = weights[:, order]
    counts = np.add.reduceat(sorted_weights, starts, axis=1)
    hits = np.add.reduceat(sorted_weights * right[order], starts, axis=1)
    end = COVERAGE * counts.sum(1, keepdims=True)
    counted = (end - (counts.cumsum(1) - counts)).clip(0, counts)
    share: Floats = (counted * np.divide(hits, counts, where=counts > 0, out=np.zeros_like(hits))).sum(1) / end[:, 0]
    return share


def _auroc(positive: NDArray[np.bool_], values: Floats, weights: Floats) -> Floats:
    """Count the pairs in the right order, ties half: the area under the ROC curve of weighted slices."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # of equal values
    sorted_weights, right = weights[:, order], positive[order]
    above = np.add.reduceat(sorted_weights * right, starts, axis=1)
    below = np.add.reduceat(sorted_weights * ~right, starts, axis=1)
    pairs = (above * (below.cumsum(1) - below / 2)).sum(1)
    area: Floats = pairs / (above.sum(1) * below.sum(1))
    return area

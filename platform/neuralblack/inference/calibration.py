"""How sure an answer may sound, from slices that the network did not learn from: temperature and prediction sets.

Plain numpy on logits. `inference/reference.py` measures it for a finished run; `inference/predictor.py` applies it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from neuralblack.metrics import calibration_error

# Of prediction sets. A network that is right in 93 of 100 slices keeps 0.9 with one class in every set, which tells
# nobody anything.
COVERAGE = 0.95
FOLDS = 5  # of patients, for the error that temperature was not fitted to
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are tried


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float32]:
    """(N, K) logits -> (N, K) float32 probabilities; a temperature above 1 makes them less sure."""
    scaled = logits.astype(np.float64) / temperature
    raised = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: NDArray[np.float32] = (raised / raised.sum(1, keepdims=True)).astype(np.float32)
    return shares


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64], *, patients: int) -> float:
    """Find the temperature of the lowest mean log loss (Guo et al., 2017), between COLDEST and HOTTEST.

    The loss is convex in 1/T, so halving the interval around the root of its derivative finds the one minimum. The top
    class stays the same at every temperature. The true class's target is not 1 but (n + 1) / (n + 2), as Platt (1999,
    "Probabilistic outputs for support vector machines") takes it, the rest spread over all classes: a network without
    an error on n patients would otherwise be made as sure as the coldest temperature can.

    Args:
        logits: (N, K), N > 0.
        labels: (N,) true classes.
        patients: n, of whom the slices are; those of one resemble each other.
    """
    rows, doubt = np.arange(len(labels)), 1 / (patients + 2)
    wanted = (1 - doubt) * logits[rows, labels] + doubt * logits.mean(1)

    def slope(inverse: float) -> float:
        expected = (softmax(logits, 1 / inverse) * logits).sum(1)
        return float((expected - wanted).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(50):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / math.sqrt(low * high)


def cross_fitted_error(
    logits: NDArray[np.floating], labels: NDArray[np.int64], patients: NDArray[np.str_]
) -> float | None:
    """Measure the calibration error with each patient's temperature fitted on the others; None for one patient."""
    names, group = np.unique(patients, return_inverse=True)
    if len(names) < 2:
        return None
    fold = group % FOLDS
    probabilities = np.zeros(logits.shape, np.float32)
    for number in np.unique(fold):
        mine = fold == number
        others = len(np.unique(group[~mine]))
        probabilities[mine] = softmax(logits[mine], fit_temperature(logits[~mine], labels[~mine], patients=others))
    return calibration_error(labels, probabilities)


def fit_sets(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    *,
    coverage: float = COVERAGE,
) -> float:
    """Find the least probability of a class in a prediction set, so that sets hold the truth for `coverage`.

    Split-conformal with the score 1 - p(true class) (Sadinle et al., 2019, "Least ambiguous set-valued classifiers").
    Slices of a patient resemble each other, so a slice counts 1/n of its patient's n: what is promised is a slice of a
    new patient, and the margin for a finite sample is one patient, not one slice (Lee, Barber and Willett, 2023,
    "Distribution-free inference with hierarchical data"). Fewer patients than coverage / (1 - coverage) allow no
    promise but the set of all classes, whose least probability is 0.

    Args:
        probabilities: (N, K), calibrated.
        labels, patients: (N,) of the same slices, none of which the network learnt from.
        coverage: the share of slices whose set shall hold the true class.
    """
    scores = 1 - probabilities[np.arange(len(labels)), labels].astype(np.float64)
    _, group, sizes = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.argsort(scores)
    reached = np.cumsum(1 / sizes[group][order]) / (len(sizes) + 1)  # the new patient's own share lies at infinity
    index = int(np.searchsorted(reached, coverage - 1e-9))
    return float(1 - scores[order][index]) if index < len(scores) else 0.0


def in_set(probabilities: NDArray[np.floating], least: float) -> NDArray[np.bool_]:
    """Tell which classes are in the prediction sets: (N, K); the top class always is."""
    held: NDArray[np.bool_] = probabilities >= least - 1e-7
    held[np.arange(len(held)), probabilities.argmax(1)] = True
    return held

"""What a classifier's answers are worth, counted: confusion, sensitivity, specificity, precision, F1, AUROC, MCC.

Rows of a confusion matrix are the true classes, columns the predicted ones. A ratio without a denominator (the
sensitivity to a class that no slice had) is None, never 0: nothing was measured.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, log_loss, matthews_corrcoef, roc_auc_score

BINS = 15  # of a calibration error
LEAST = 1e-7  # a slice's probability below counts as this one in a patient's verdict: none outvotes all others
COVERAGE = 0.9  # share of the slices, the surest, that count in accuracy_at_90


def summarise(
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    classes: Sequence[str],
    *,
    models: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Count what was right and wrong, over all slices and for each class against the rest.

    Args:
        labels: (N,) the true class of each slice, an index into `classes`.
        probabilities: (N, K), rows that add up to 1; the largest is the prediction, the first of equals.
        classes: the K names.
        models: (N,) which model said it, 0 or more, for the calibration error; none given: all are of one.

    Returns:
        JSON, no NaN in it: slices, accuracy, balanced_accuracy (the mean sensitivity of the classes that some slice
        has), macro_f1 (the mean over the classes that some slice has or was given), mcc (Matthews' correlation of K
        classes), log_loss (natural logarithm), brier (the mean over slices of the sum over classes of squared errors,
        0..2; Brier, 1950), ece (`calibration_error`), accuracy_at_90 (`accuracy_at_coverage`), confusion (K x K, rows
        true), and per class slices, TP, FP, FN, TN, sensitivity TP/(TP+FN), specificity TN/(TN+FP), precision
        TP/(TP+FP), F1 2TP/(2TP+FP+FN), AUROC.
    """
    count = len(classes)
    assert probabilities.shape == (len(labels), count), (probabilities.shape, len(labels), count)
    assert np.isfinite(probabilities).all()
    assert ((labels >= 0) & (labels < count)).all()
    everyone = list(range(count))
    given = probabilities.argmax(1) if len(labels) else np.zeros(0, np.int64)
    confusion = confusion_matrix(labels, given, labels=everyone) if len(labels) else np.zeros((count, count), np.int64)
    per_class = {name: _one_class(confusion, index) for index, name in enumerate(classes)}
    for index, name in enumerate(classes):
        per_class[name]["auroc"] = _auroc(labels == index, probabilities[:, index])
    f1, found = ([one[key] for one in per_class.values() if one[key] is not None] for key in ("f1", "sensitivity"))
    return {
        "slices": len(labels),
        "accuracy": ratio(int(np.trace(confusion)), len(labels)),
        "balanced_accuracy": ratio(sum(found), len(found)),
        "macro_f1": ratio(sum(f1), len(f1)),
        "mcc": float(matthews_corrcoef(labels, given)) if len(set(labels)) > 1 < len(set(given)) else None,
        "log_loss": _log_loss(labels, probabilities, everyone),
        "brier": float(squares(labels, probabilities).mean()) if len(labels) else None,
        "ece": calibration_error(labels, probabilities, models) if len(labels) else None,
        "accuracy_at_90": accuracy_at_coverage(labels, probabilities) if len(labels) else None,
        "classes": list(classes),
        "confusion": confusion.tolist(),
        "per_class": per_class,
    }


def ratio(part: float, whole: float) -> float | None:
    """Divide, or say None where there is nothing to divide by.

    >>> ratio(3, 4), ratio(0, 0)
    (0.75, None)
    """
    return float(part / whole) if whole else None


def calibration_error(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], models: NDArray[np.int64] | None = None
) -> float:
    """Measure how far the top probability is from the share that was right: the expected calibration error, 0..1.

    Slices are binned by their largest probability into BINS of equal width; the error is the mean over slices of
    |accuracy - mean probability| of a slice's bin (Guo et al., 2017, "On calibration of modern neural networks"). Each
    model, of those that `models` (N,) numbers from 0, has bins of its own: together one that is too sure and one that
    is not sure enough would come out calibrated.

    >>> calibration_error(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]))  # sure by 0.9, right by half
    0.4
    """
    return error_of(calibration_gaps(labels, probabilities, models), len(labels))


def error_of(gaps: NDArray[np.floating], slices: int) -> float:
    """Average over slices how far the bins, of all models, are off: what `calibration_gaps` says, of any shape."""
    return round(float(np.abs(gaps).sum() / slices), 12)


def calibration_gaps(
    labels: NDArray[np.integer], probabilities: NDArray[np.floating], models: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Sum right (1 or 0) minus the largest probability over the slices of each bin: (BINS,), of M models (M BINS,)."""
    top = probabilities.max(1).astype(np.float64)
    right = probabilities.argmax(1) == labels
    return np.bincount(bin_of(top, models), right - top, BINS).astype(np.float64)


def bin_of(top: NDArray[np.floating], models: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Number the bin of each probability, of BINS of equal width for each model; a bin holds its upper end."""
    index: NDArray[np.int64] = np.clip(np.ceil(top * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return index if models is None else index + BINS * models


def accuracy_at_coverage(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Count how many are right of the COVERAGE of the slices that the model is surest of; the last counts in part.

    What a service is worth that gives the rest to a person (El-Yaniv and Wiener, 2010, on selective classification).

    >>> accuracy_at_coverage(np.zeros(10, int), np.array([[0.9, 0.1]] * 9 + [[0.4, 0.6]]))
    1.0
    """
    right = surest_first(probabilities.max(1), probabilities.argmax(1) == labels)
    whole = COVERAGE * len(labels)
    counted = (whole - np.arange(len(labels))).clip(0, 1)
    return round(float(counted @ right / whole), 12)


def surest_first(top: NDArray[np.floating], values: NDArray[Any]) -> NDArray[np.float64]:
    """Put values (N,) into the order of how sure a model was of each, `top` (N,); among equals each has their mean.

    >>> surest_first(np.array([0.5, 0.9, 0.5]), np.array([1, 1, 0]))
    array([1. , 0.5, 0.5])
    """
    _, block, counts = np.unique(-top, return_inverse=True, return_counts=True)
    means = np.bincount(block, values.astype(np.float64)) / counts
    return np.repeat(means, counts)


def squares(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Sum each slice's squared errors over the classes: (N,), 0 where sure and right, 2 where sure and wrong."""
    errors = (probabilities - np.eye(probabilities.shape[1])[labels]) ** 2
    sums: NDArray[np.float64] = errors.sum(1)
    return sums


def losses(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Take minus the logarithm of each true class's probability, (N,), bounded as scikit-learn's log_loss is."""
    rows = probabilities.astype(np.float64)
    least = np.finfo(np.float64).eps
    true = (rows / rows.sum(1, keepdims=True)).clip(least, 1 - least)[np.arange(len(labels)), labels]
    logarithms: NDArray[np.float64] = -np.log(true)
    return logarithms


def _one_class(confusion: NDArray[np.integer], index: int) -> dict[str, Any]:
    hits = int(confusion[index, index])
    misses = int(confusion[index].sum()) - hits
    alarms = int(confusion[:, index].sum()) - hits
    rest = int(confusion.sum()) - hits - misses - alarms
    return {
        "slices": hits + misses,
        "tp": hits,
        "fp": alarms,
        "fn": misses,
        "tn": rest,
        "sensitivity": ratio(hits, hits + misses),
        "specificity": ratio(rest, rest + alarms),
        "precision": ratio(hits, hits + alarms),
        "f1": ratio(2 * hits, 2 * hits + alarms + misses),
    }


def _auroc(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float | None:
    """Area under the ROC curve of one class against the rest; None unless slices of both are there."""
    if not positive.any() or positive.all():
        return None
    return float(roc_auc_score(positive, scores))


def _log_loss(labels: NDArray[np.integer], probabilities: NDArray[np.floating], everyone: list[int]) -> float | None:
    if not len(labels):
        return None
    if len(everyone) == 1:
        return 0.0  # one class has probability 1
    rows = probabilities.astype(np.float64)
    return float(log_loss(labels, rows / rows.sum(1, keepdims=True), labels=everyone))

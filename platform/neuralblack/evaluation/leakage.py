"""The leak ledger: how much of a result could come from seeing the same patients, or from how scans were exported.

Neighbouring slices of a patient are almost copies of each other. Who splits record by record tests on copies of what
was learnt, and measures memory: 1-NN on thumbnails reaches 94% on Cheng's data record-wise and 70% patient-wise. So
every method is measured both ways, on test parts of one size; the gap is what a record-wise split would have added.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import Dataset, class_numbers
from neuralblack.evaluation.baselines import BASELINES, Baseline, Features, Part
from neuralblack.metrics import summarise

RECIPE = "the model"  # in the record-wise column: the same recipe, trained again
ALARM = 0.98  # accuracy on other patients that nobody has published for this data without a leak
CHECKS = (
    "Are the folds patient-wise? `neuralblack describe DATASET` counts patients; one for each slice is no patient id.",
    "Do copies of test slices lie in the training part? `neuralblack prepare` names near-duplicates in manifest.json.",
    "Does each class come from a source of its own? Then the model may know the source: look at the frame-only and "
    "size-only baselines, and at the sources below.",
    "Was anything chosen on the test folds: epochs, a trial, the temperature?",
)

Rows = NDArray[np.int64]
# Trains the same recipe on the first rows, chooses its epoch by the second, and says (M, K) probabilities of the third.
Retrain = Callable[[Rows, Rows, Rows], NDArray[np.floating]]


def measure_ledger(
    train: Part, test: Part, classes: Sequence[str], methods: Mapping[str, Baseline] = BASELINES, *, seed: int = 0
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, float]]]:
    """Measure methods on the test part, and record-wise.

    Args:
        train, test: the parts, of one dataset or of two.
        classes: the K names.
        methods: name -> how.
        seed: of the record-wise split.

    Returns:
        name -> `metrics.summarise` on the test part (without log_loss, ece, brier and accuracy_at_90 of votes); and
        name -> accuracy and macro_f1 record-wise: both parts mixed, and parted at random into parts of the same sizes.

    """
    count = len(classes)
    mixed_labels = np.concatenate([train.labels, test.labels])
    learnt, asked = record_wise(len(train.labels), len(test.labels), seed=seed)
    apart: dict[str, dict[str, Any]] = {}
    together: dict[str, dict[str, float]] = {}
    for name, method in methods.items():
        seen, new = method.features(train.dataset, train.rows), method.features(test.dataset, test.rows)
        apart[name] = _summary(method, test.labels, method.fit(seen, train.labels, new, count), classes)
        mixed: Features = np.concatenate([seen, new])
        shares = method.fit(mixed[learnt], mixed_labels[learnt], mixed[asked], count)
        together[name] = short(summarise(mixed_labels[asked], shares, classes))
    return apart, together


def record_wise(train: int, test: int, *, seed: int = 0) -> tuple[Rows, Rows]:
    """Part `train + test` records at random into so many and so many, as the projects do that report 99%."""
    order = np.random.default_rng(seed).permutation(train + test)
    return np.sort(order[:train]), np.sort(order[train:])


def measure_retrained(
    retrain: Retrain, dataset: Dataset, parts: Sequence[Rows], classes: Sequence[str], *, seed: int = 0
) -> dict[str, float]:
    """Train the same recipe on a record-wise split of the same sizes, and measure it.

    Args:
        retrain: trains; takes rows to learn from, rows to choose the epoch by, and rows to judge.
        dataset: of the rows.
        parts: the patient-wise train, validation and test rows, which are mixed.
        classes: the K names.
        seed: of the split.

    """
    order = np.random.default_rng(seed).permutation(np.concatenate(parts))
    train, validation, test = (np.sort(rows) for rows in np.split(order, np.cumsum([len(part) for part in parts])[:-1]))
    probabilities = retrain(train, validation, test)
    return short(summarise(class_numbers(dataset, test, classes), probabilities, classes))


def alarms(result: Mapping[str, Any]) -> list[str]:
    """List what a reader must check before believing a result; the report opens with it."""
    if result["accuracy"] is None or result["accuracy"] <= ALARM:
        return []
    return [
        f"An accuracy of {result['accuracy']:.1%} on other patients is more than {ALARM:.0%}: look for a leak first.",
        *CHECKS,
    ]


def short(summary: Mapping[str, Any]) -> dict[str, float]:
    """Keep of a summary what the ledger shows."""
    return {name: summary[name] for name in ("accuracy", "macro_f1")}


def _summary(
    method: Baseline, labels: NDArray[np.int64], probabilities: NDArray[np.floating], classes: Sequence[str]
) -> dict[str, Any]:
    found = summarise(labels, probabilities, classes)
    return found | dict.fromkeys(("log_loss", "ece", "brier", "accuracy_at_90")) if method.votes else found

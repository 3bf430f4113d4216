"""Evaluate a trained model on patients it was not chosen by, with the baselines of the same patients beside it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.data.dataset import Dataset, class_numbers, open_dataset, sample_of
from neuralblack.data.shards import by_shard
from neuralblack.data.splits import folds_of, load_split, refuse_overlap
from neuralblack.errors import InputError
from neuralblack.evaluation.baselines import linear_probe, measure_baselines
from neuralblack.evaluation.evaluate import evaluate
from neuralblack.inference.features import pooled_features
from neuralblack.inference.predictor import Predictor
from neuralblack.metrics import summarise

log = logging.getLogger(__name__)

PIECE = 4096  # slices that are in memory at a time


def evaluate_held_out(
    predictor: Predictor,
    data: str | Path,
    out: Path,
    *,
    folds: Sequence[int] | None = None,
    with_baselines: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate on the run's test folds, on the folds named, or on the whole of another dataset.

    Args:
        predictor: the model, with the split that it was trained on.
        data: the dataset's folder.
        out: a new folder, or one that an earlier evaluation wrote.
        folds: which folds; none given: the run's test folds, or all slices of a dataset that the run did not use.
        with_baselines: also fit majority, 1-NN and a linear probe on the run's training part; on another dataset
            than the run's that part is not there, and the log says so.
        progress: called with slices done and slices in all.

    Raises:
        InputError: a patient of the training or validation part is among them, or nothing is left to judge.
    """
    dataset, manifest = open_dataset(data), predictor.folder.split
    rows = _rows(dataset, manifest, folds)
    refuse_overlap(manifest, dataset, rows)
    baselines: dict[str, dict[str, Any]] = {}
    if with_baselines and manifest["dataset"] != dataset.hash:
        log.info("no baselines: the training part is of another dataset")
    elif with_baselines:
        train = load_split(manifest, dataset).train
        baselines = measure_baselines(dataset, train, rows, predictor.classes)
        baselines[_probe_name(predictor)] = _probe(predictor, dataset, train, rows)
    return evaluate(
        predictor,
        dataset,
        rows,
        out,
        baselines=baselines,
        history=predictor.folder.history,
        split=manifest,
        progress=progress,
    )


def _rows(dataset: Dataset, manifest: dict[str, Any], folds: Sequence[int] | None) -> NDArray[np.int64]:
    of_row = folds_of(dataset, seed=manifest["seed"]) if folds or manifest["dataset"] == dataset.hash else None
    if of_row is None:
        return np.arange(len(dataset))
    wanted = folds or manifest["parts"]["test"]["folds"]
    rows = np.flatnonzero(np.isin(of_row, wanted))
    missing = sorted(set(wanted) - set(of_row.tolist()) - {0})
    if missing or not len(rows):
        raise InputError(
            dataset.path,
            found=f"no slices in fold {', '.join(map(str, missing or wanted)) or 'any: the run has no test fold'}",
            expected=f"folds among {', '.join(str(fold) for fold in sorted(set(of_row.tolist()) - {0}))}",
            fix="--folds N, or train with --set test_folds=[N]",
        )
    return rows


def _probe_name(predictor: Predictor) -> str:
    weights = predictor.folder.config.weights
    return f"linear probe on {'random' if weights == 'none' else 'frozen'} features"


def _probe(predictor: Predictor, dataset: Dataset, train: NDArray[np.int64], rows: NDArray[np.int64]) -> dict[str, Any]:
    """Fit a logistic regression on the features of the weights that the run started from."""
    config, classes = predictor.folder.config, predictor.classes
    known = np.array([row for row in rows if dataset.labels[row] in classes], np.int64)
    train = sample_of(train, dataset)
    y_train, y_test = (class_numbers(dataset, part, classes) for part in (train, known))

    def features(part: NDArray[np.int64]) -> NDArray[np.float32]:
        order = by_shard(part, len(dataset))
        pieces = np.split(order, range(PIECE, len(order), PIECE))
        found = [pooled_features(dataset.images[part[at]], model=config.model, weights=config.weights) for at in pieces]
        return np.concatenate(found)[np.argsort(order)]

    probabilities = linear_probe(features(train), y_train, features(known), count=len(classes))
    return summarise(y_test, probabilities, classes)

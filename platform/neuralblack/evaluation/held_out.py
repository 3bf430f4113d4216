"""Evaluate a trained model on patients it was not chosen by, with the baselines of the same patients beside it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuralblack.config import TrainConfig
from neuralblack.data.dataset import LEARNT_ONLY, Dataset, open_dataset, sample_of
from neuralblack.data.shards import by_shard
from neuralblack.data.splits import SPLIT_JSON, Split, folds_of, load_split, refuse_overlap
from neuralblack.errors import InputError
from neuralblack.evaluation.baselines import BASELINES, Baseline, Part, known_part, line
from neuralblack.evaluation.copies import find_copies, refuse_copies
from neuralblack.evaluation.evaluate import check_out, evaluate
from neuralblack.evaluation.leakage import RECIPE, measure_ledger, measure_retrained
from neuralblack.evaluation.record_wise import retrain_with
from neuralblack.evaluation.subsets import learnt_of_sources
from neuralblack.inference.features import pooled_features
from neuralblack.inference.predictor import Predictor
from neuralblack.registry.cost import cost_of, said

log = logging.getLogger(__name__)

PIECE = 4096  # slices that are in memory at a time


def evaluate_held_out(
    predictor: Predictor,
    data: str | Path,
    out: Path,
    *,
    folds: Sequence[int] | None = None,
    with_baselines: bool = True,
    trained_on: str | Path | None = None,
    skip_copies: bool = False,
    closer: int = 0,
    record_wise: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate on the run's test folds, on the folds named, or on the whole of another dataset.

    Args:
        predictor: the model, with the split that it was trained on.
        data: the dataset's folder.
        out: a new folder, or one that an earlier evaluation wrote.
        folds: which folds; none given: the run's test folds, or all slices of a dataset that the run did not use.
        with_baselines: also fit BASELINES and a linear probe on the run's training part, patient-wise and record-wise.
        trained_on: the dataset of the run, where `data` is another one. Without it copies of learnt slices cannot be
            looked for, and there are no baselines; the report says so.
        skip_copies: leave copies of learnt slices out, instead of refusing.
        closer: on how many slices at most to measure disturbances and heat maps (`evaluation.closer`).
        record_wise: also train the run's recipe on a record-wise split, in this process, for the leak ledger.
        progress: called with slices done and slices in all.

    Raises:
        InputError: a patient of the training or validation part is among them, or a copy of one's slice; nothing is
            left to judge; or what was asked for needs `trained_on`.
    """
    check_out(out)
    dataset, manifest = open_dataset(data), predictor.folder.split
    where = predictor.folder.path / SPLIT_JSON
    rows = _rows(dataset, manifest, folds)
    refuse_overlap(manifest, dataset, rows, where=where)
    source = _trained_on(dataset, manifest, trained_on)
    if closer and predictor.needs_box:
        raise InputError(
            "--closer",
            found=f"{predictor.name}, which is shown tumours that somebody marked",
            expected="a model of whole slices or heads: a mark does not follow a disturbed slice",
            fix="leave --closer out",
        )
    if record_wise and source is not dataset:
        raise InputError(
            "--record-wise", found="another dataset than the run's", expected="the run's own", fix="leave it out here"
        )
    baselines: dict[str, dict[str, Any]] = {}
    together: dict[str, dict[str, float]] = {}
    copies: dict[str, Any] = {"looked_for": False, "left_out": []}
    learnt: dict[str, int] | None = None
    if source:
        split = load_split(manifest, source, where=where)
        rows, copies = _without_copies(source, split, dataset, rows, skip=skip_copies)
        learnt = learnt_of_sources(source, split.train, dataset, rows)
        if with_baselines:
            train, test = (known_part(*part, predictor.classes) for part in ((source, split.train), (dataset, rows)))
            methods = {**BASELINES, **linear_probe(predictor.folder.config)}
            baselines, together = measure_ledger(_sample(train), test, predictor.classes, methods)
        if record_wise:
            parts = (split.train, split.validation, known_part(dataset, rows, predictor.classes).rows)
            retrain = retrain_with(predictor.folder.config, dataset, predictor.classes)
            together[RECIPE] = measure_retrained(retrain, dataset, parts, predictor.classes)
    else:
        log.warning("copies of learnt slices were not looked for, and no baselines: --trained-on DATASET does both")
    return evaluate(
        predictor,
        dataset,
        rows,
        out,
        baselines=baselines,
        record_wise=together,
        copies=copies,
        learnt=learnt,
        closer=closer,
        explain=predictor.explain,
        history=predictor.folder.history,
        split=manifest,
        sources=source.manifest.get("sources", ()) if source else (),
        made=predictor.folder.card,
        cost=said(cost_of(predictor.folder.path.parent)),
        progress=progress,
    )


def _trained_on(dataset: Dataset, manifest: dict[str, Any], trained_on: str | Path | None) -> Dataset | None:
    """Open the dataset that the run learnt from; None where it is another one than the judged, and was not named."""
    if manifest["dataset"] == dataset.hash:
        return dataset
    return open_dataset(trained_on) if trained_on else None


def _without_copies(
    source: Dataset, split: Split, dataset: Dataset, rows: NDArray[np.int64], *, skip: bool
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    found = find_copies(source, np.concatenate([split.train, split.validation]), dataset, rows)
    if not skip:
        refuse_copies(dataset, found, len(rows))
    return np.setdiff1d(rows, found), {"looked_for": True, "left_out": [dataset.ids[row] for row in found]}


def _rows(dataset: Dataset, manifest: dict[str, Any], folds: Sequence[int] | None) -> NDArray[np.int64]:
    of_row = folds_of(dataset, seed=manifest["seed"]) if folds or manifest["dataset"] == dataset.hash else None
    if of_row is None:
        return np.flatnonzero(dataset.folds != LEARNT_ONLY)
    wanted = folds or manifest["parts"]["test"]["folds"]
    rows = np.flatnonzero(np.isin(of_row, wanted))
    present = sorted(fold for fold in set(of_row.tolist()) if fold > 0)
    missing = sorted(set(wanted) - set(present) - {0})
    if missing or not len(rows):
        raise InputError(
            dataset.path,
            found=f"no slices in fold {', '.join(map(str, missing or wanted)) or 'any: the run has no test fold'}",
            expected=f"folds among {', '.join(map(str, present))}",
            fix="--folds N, or train with --set test_folds=[N]",
        )
    return rows


def linear_probe(config: TrainConfig) -> dict[str, Baseline]:
    """Make the logistic regression on the features of the weights that a run starts from, by its name."""

    def features(dataset: Dataset, part: NDArray[np.int64]) -> NDArray[np.float32]:
        order = by_shard(part, len(dataset))
        pieces = np.split(order, range(PIECE, len(order), PIECE))
        found = [pooled_features(dataset.images[part[at]], model=config.model, weights=config.weights) for at in pieces]
        return np.concatenate(found)[np.argsort(order)]

    name = f"linear probe on {'random' if config.weights == 'none' else 'frozen'} features"
    return {name: Baseline(features, line)}


def _sample(part: Part) -> Part:
    """Take so many slices of a part as something can be fitted to in memory."""
    kept = np.isin(part.rows, sample_of(part.rows, part.dataset))
    return Part(part.dataset, part.rows[kept], part.labels[kept])

"""Judge a model on slices it has not seen: numbers, every single prediction, and a report to read.

neuralblack evaluate MODEL DATASET --out REPORT writes REPORT/metrics.json, predictions.parquet and report.html.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neuralblack.data.dataset import Dataset, class_numbers, hashed
from neuralblack.data.patients import is_named
from neuralblack.data.preprocessing import Preprocessing
from neuralblack.data.shards import by_shard
from neuralblack.errors import InputError
from neuralblack.evaluation.bootstrap import intervals
from neuralblack.evaluation.closer import Explain, measure_pointing, measure_robustness, sample_of_classes
from neuralblack.evaluation.leakage import alarms
from neuralblack.evaluation.making import facts_of_making
from neuralblack.evaluation.metrics_file import METRICS, PREDICTIONS, REPORT, VERSION
from neuralblack.evaluation.model_card import write_card
from neuralblack.evaluation.patients import VERDICT, VERDICTS, Slices
from neuralblack.evaluation.report import write_report
from neuralblack.evaluation.subsets import by_source, tumour_only
from neuralblack.files import check_replaceable, new_folder, write_bytes, write_json
from neuralblack.metrics import calibration_error, summarise
from neuralblack.registry.promotion import CARD

log = logging.getLogger(__name__)

BATCH = 64  # slices handed to the model at a time


class Classifier(Protocol):
    """What `evaluate` needs of a model; `inference.predictor.Predictor` is one."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities."""

    @property
    def spec(self) -> Preprocessing:
        """How its training slices were prepared."""

    @property
    def hash(self) -> str:
        """Which weights."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def temperature(self) -> float:
        """What its logits were divided by for its probabilities; 1 where it was not calibrated."""

    def judge(self, images: NDArray[np.uint8], boxes: NDArray[np.int64] | None = None) -> "Judged":
        """Say of (N, S, S) slices with boxes (N, 4), -1 where there is none, what `Judged` holds."""


class Judged(Protocol):
    """What a model says of N slices; `inference.predictor.Judgement` is one."""

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(N, K), of all slices."""

    @property
    def in_set(self) -> NDArray[np.bool_]:
        """(N, K), whether a class is in a slice's prediction set."""

    @property
    def refused(self) -> NDArray[np.bool_]:
        """(N,), whether the gate would have given no answer."""


def evaluate(
    predictor: Classifier,
    dataset: Dataset,
    rows: Sequence[int] | NDArray[np.int64],
    out: Path,
    *,
    baselines: Mapping[str, dict[str, Any]] = {},
    record_wise: Mapping[str, Mapping[str, float]] = {},
    copies: Mapping[str, Any] = {"looked_for": False, "left_out": []},
    learnt: Mapping[str, int] | None = None,
    closer: int = 0,
    explain: Explain | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    split: Mapping[str, Any] | None = None,
    sources: Sequence[Mapping[str, Any]] = (),
    made: Mapping[str, Any] | None = None,
    cost: str = "not recorded",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Classify the slices of `rows` and write what came out to the folder `out`, whole or not at all.

    A slice whose true class the model does not have cannot be counted right or wrong: it is left out of the numbers,
    and listed. That no patient was seen in training is the caller's to check (`data.splits.refuse_overlap`).

    Args:
        predictor: the model.
        dataset: prepared as the model's own training data were.
        rows: row numbers.
        out: a new folder, or one that an earlier evaluation wrote.
        baselines: name -> `metrics.summarise` of the same slices, shown beside the result.
        record_wise: name -> accuracy and macro_f1 of a baseline, or of the recipe, where patients are mixed.
        copies: as `metrics_file.Copies` says.
        learnt: slices that were learnt from, of each source in `dataset`; None: not known.
        closer: on how many slices at most to measure what `closer` measures.
        explain: draws heat maps; none given: the report has none, and where the model looks is not measured.
        history: one dict for each epoch of training: epoch, train_loss, train_accuracy, loss, accuracy.
        split: the split's manifest, for the report's facts; without it the report claims nothing about training.
        sources: of the dataset that was learnt from, as its manifest has them; none: not known.
        made: the model folder's card.json; with it and `split` a model card is written beside the report.
        cost: of the training, in words.
        progress: called with slices done and slices in all.

    Returns:
        What metrics.json holds (`metrics_file.Metrics`): `metrics.summarise` of all slices with their intervals, the
        same of patients, and what else a reader asks. Slices that the gate would have refused are counted too.

    Raises:
        InputError: slices prepared in another way, none the model could know, or a folder with something else in it.
    """
    _check(predictor, dataset, out)
    known = np.array([row for row in rows if dataset.labels[row] in predictor.classes], np.int64)
    left_out: dict[str, list[str]] = {}
    for row in rows:
        if dataset.labels[row] not in predictor.classes:
            left_out.setdefault(dataset.labels[row], []).append(dataset.ids[row])
    if not len(known):
        raise InputError(
            dataset.path,
            found=f"{len(rows)} slices to judge, none of a class of the model",
            expected=f"slices of {', '.join(predictor.classes)}",
            fix="choose another fold or dataset",
        )
    probabilities, in_set, refused = _classify(predictor, dataset, known, progress)
    labels = class_numbers(dataset, known, predictor.classes)
    slices = Slices(labels, probabilities, [dataset.patients[row] for row in known])
    result = {
        **summarise(labels, probabilities, predictor.classes),
        "version": VERSION,
        "intervals": intervals(slices, classes=predictor.classes),
        "by_patient": _by_patient(slices, predictor.classes),
        "unnamed_patients": sum(not is_named(patient) for patient in set(slices.patients)),
        "uncalibrated": _uncalibrated(slices, predictor.temperature, predictor.classes),
        "prediction_sets": {
            "covered": float(in_set[np.arange(len(labels)), labels].mean()),
            "mean_size": float(in_set.sum(1).mean()),
        },
        "refused": int(refused.sum()),
        "model": {"name": predictor.name, "hash": predictor.hash},
        "dataset": {"hash": dataset.hash, "preprocessing": dataset.spec.model_dump()},
        "patients": len(set(slices.patients)),
        "left_out": left_out,
        "baselines": dict(baselines),
        "record_wise": dict(record_wise),
        "tumour_only": tumour_only(slices, predictor.classes),
        "by_source": by_source(slices, [dataset.sources[row] for row in known], predictor.classes, learnt=learnt),
        "copies": dict(copies),
        **_closer(predictor, dataset, known, slices, explain, most=closer),
    }
    result["alarms"] = alarms(result)
    with new_folder(out) as folder:
        pq.write_table(_table(predictor, dataset, known, probabilities), folder / PREDICTIONS)
        making = facts_of_making(made, split, history or (), cost=cost) if made and split else {}
        write_report(
            folder / REPORT,
            result,
            dataset,
            known,
            probabilities,
            history=history,
            split=split,
            explain=explain,
            making=making,
        )
        if made and split:
            write_bytes(folder / CARD, write_card(result, made, split, making, sources=sources).encode())
        write_json(folder / METRICS, result)
    return result


def _closer(
    predictor: Classifier,
    dataset: Dataset,
    rows: NDArray[np.int64],
    slices: Slices,
    explain: Explain | None,
    *,
    most: int,
) -> dict[str, Any]:
    chosen = sample_of_classes(slices.labels, slices.patients, most=most)
    if not len(chosen):
        return {"robustness": None, "pointing": None}
    log.info("disturbing %d slices in every way, and looking where the model looks", len(chosen))

    def classify(images: NDArray[np.uint8]) -> NDArray[np.floating]:
        parts = [predictor.judge(images[at : at + BATCH]).probabilities for at in range(0, len(images), BATCH)]
        return np.concatenate(parts)

    order = chosen[by_shard(rows[chosen], len(dataset))]
    return {
        "robustness": measure_robustness(classify, dataset.images[rows[order]], slices.labels[order]),
        "pointing": measure_pointing(explain, dataset, rows[order]) if explain else None,
    }


def _by_patient(slices: Slices, classes: Sequence[str]) -> dict[str, Any]:
    verdicts = {name: slices.by_patient(name) for name in VERDICTS}
    found = {name: one.summary(classes) for name, one in verdicts.items()}
    return {
        **{key: value for key, value in found[VERDICT].items() if key != "patients"},
        "intervals": intervals(verdicts[VERDICT], classes=classes),
        "alternatives": {
            name: {key: one[key] for key in ("accuracy", "macro_f1", "log_loss")}
            for name, one in found.items()
            if name != VERDICT
        },
    }


def _uncalibrated(slices: Slices, temperature: float, classes: Sequence[str]) -> dict[str, float]:
    before = slices.tempered(temperature)
    return {
        "temperature": temperature,
        "ece": calibration_error(before.labels, before.probabilities),
        "log_loss": before.summary(classes)["log_loss"],
    }


def _check(predictor: Classifier, dataset: Dataset, out: Path) -> None:
    if predictor.spec != dataset.spec:
        raise InputError(
            dataset.path,
            found=f"slices prepared with {_words(dataset.spec)}",
            expected=f"{_words(predictor.spec)}, as {predictor.name} learnt them",
            fix=f"prepare the scans again: neuralblack prepare SOURCE --out DATASET --size {predictor.spec.size}",
        )
    check_out(out)


def check_out(out: Path) -> None:
    """Raise InputError where `evaluate` could not write, or would take away what it did not write.

    Best asked before the work. That there is a metrics.json does not make a folder an evaluation: many tools write one.
    """
    check_replaceable(out, (METRICS, PREDICTIONS, REPORT, CARD), what="evaluation")


def _words(spec: Preprocessing) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in spec.model_dump().items())


def _classify(
    predictor: Classifier, dataset: Dataset, rows: NDArray[np.int64], progress: Callable[[int, int], None] | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    parts, order = [], by_shard(rows, len(dataset))
    for start in range(0, len(rows), BATCH):
        some = rows[order[start : start + BATCH]]
        parts.append(predictor.judge(dataset.images[some], dataset.boxes[some]))
        if progress:
            progress(min(start + BATCH, len(rows)), len(rows))
    back = np.argsort(order)
    return (
        np.concatenate([part.probabilities for part in parts])[back],
        np.concatenate([part.in_set for part in parts])[back],
        np.concatenate([part.refused for part in parts])[back],
    )


def _table(
    predictor: Classifier, dataset: Dataset, rows: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> pa.Table:
    """One row a slice: id, hashed patient, true and predicted class, and each class's probability."""
    columns: dict[str, Any] = {
        "id": [dataset.ids[row] for row in rows],
        "patient": [hashed(dataset.patients[row]) for row in rows],
        "label": [dataset.labels[row] for row in rows],
        "predicted": [predictor.classes[index] for index in probabilities.argmax(1)],
    }
    for index, name in enumerate(predictor.classes):
        columns[f"p({name})"] = probabilities[:, index].astype(np.float32)
    return pa.table(columns)

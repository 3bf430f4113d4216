"""What a finished run keeps about its model beside the weights: calibration.json and reference.safetensors.

Everything is measured with the weights as they were trained, in eager fp32, on slices of the validation part, whose
patients the network did not learn from. The part chose the epoch, though, so all of it flatters a little; only the test
part says what remains (`neuralblack evaluate`).

reference.safetensors holds up to GOLDEN validation slices as pixels, without ids, as the network is shown them, so that
an engine can be compared with eager fp32 wherever the model goes. They are scans of patients: whoever may have the
model folder has them too.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuralblack.data.crops import as_shown
from neuralblack.data.dataset import Dataset, class_numbers, sample_of
from neuralblack.data.drift import REFUSED, fit_reference, statistics_of
from neuralblack.data.shards import by_shard
from neuralblack.data.slices import Prepared
from neuralblack.data.splits import Split
from neuralblack.errors import InputError
from neuralblack.inference.calibration import COVERAGE, cross_fitted_error, fit_sets, fit_temperature, in_set, softmax
from neuralblack.inference.engines import Engine, build_engine
from neuralblack.inference.out_of_distribution import (
    DISTANCE_RATE,
    ENOUGH,
    RATE,
    Cloud,
    Gate,
    fit_checks,
    limit,
)
from neuralblack.metrics import calibration_error, ratio
from neuralblack.registry.model_folder import ModelFolder, load_reference

log = logging.getLogger(__name__)

VERSION = 2  # 1: the cloud was of the last stage alone
GOLDEN = 32  # slices that engines are compared on
MARGIN = 0.02  # between the two most probable classes of a golden slice: rounding must not turn its answer
LEARNT = 2000  # training slices, at most, that the features' cloud is fitted to
BATCH = 32
CLOUD = ("feature_mean", "feature_directions", "feature_variances", "feature_rest")  # as the file names them
NOTE = (
    "Fitted on the part that it is measured on, and so flattering, but for ece.after_cross_fitted, whose temperatures "
    "come from other patients. The part also chose the epoch."
)


def calibrate(folder: ModelFolder, dataset: Dataset, split: Split) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measure calibration, prediction sets and the gate's limits of a finished network.

    Args:
        folder: the model, not calibrated yet.
        dataset: of which it was trained.
        split: its parts; of an empty validation part nothing can be measured.

    Returns:
        What calibration.json and reference.safetensors hold.
    """
    if not len(split.validation):
        log.info("nothing was held out: not calibrated, and only pictures in colour and blank ones will be refused")
        return {}, {}
    engine = build_engine(folder, name="eager-fp32", device="cpu")
    validation = sample_of(split.validation, dataset)
    log.info("calibrating on %d validation slices", len(validation))
    labels = class_numbers(dataset, validation, split.classes)
    patients = np.array([dataset.patients[row] for row in validation])
    shown = as_shown(dataset, folder.config.input)
    logits, features = _outputs(engine, shown, validation)
    temperature = fit_temperature(logits, labels, patients=len(set(patients.tolist())))
    before, after = softmax(logits), softmax(logits, temperature)
    least = fit_sets(after, labels, patients)
    held = in_set(after, least)

    rows = learnt_rows(split.train, dataset, split.classes)
    cloud = Cloud.fit(
        _outputs(engine, shown, rows)[1], class_numbers(dataset, rows, split.classes), classes=len(split.classes)
    )
    slices = dataset.images[validation]
    limits: dict[str, float] = {}
    if len(slices) >= ENOUGH:
        both = np.concatenate([rows, validation])
        limits = fit_checks(dataset.images[row] for row in both[by_shard(both, len(dataset))])
        limits["features"] = limit(cloud.distance(features), rate=DISTANCE_RATE, above=True)
    else:
        log.info("too few validation slices for a gate: only pictures in colour and blank ones will be refused")
    gate = Gate(limits, cloud)
    refused = [
        bool(gate.before(Prepared(pixels)) or behind)
        for pixels, behind in zip(slices, gate.behind(features), strict=True)
    ]
    calibration = {
        "version": VERSION,
        "drift": _expected(dataset, rows, after, refused, split.classes),
        "note": NOTE,
        "fitted_on": {"part": "validation", "slices": len(labels), "patients": len(set(patients.tolist()))},
        "temperature": temperature,
        "ece": {
            "before": calibration_error(labels, before),
            "after": calibration_error(labels, after),
            "after_cross_fitted": cross_fitted_error(logits, labels, patients),
        },
        "prediction_set": {
            "coverage": COVERAGE,
            "least_probability": least,
            "mean_size": float(held.sum(1).mean()),
        },
        "gate": {
            "limits": limits,
            "rate": RATE,
            "distance_rate": DISTANCE_RATE,
            "refused": ratio(sum(refused), len(refused)),
        },
    }
    chosen = golden_rows(after, labels)
    reference = {
        "golden_images": torch.from_numpy(np.array(shown.images[validation[chosen]])),
        "golden_logits": torch.from_numpy(logits[chosen]),
        **{name: torch.from_numpy(values) for name, values in zip(CLOUD, cloud.arrays(), strict=True)},
    }
    return calibration, reference


def borrow(source: ModelFolder) -> dict[str, Any]:
    """Take over temperature and prediction sets of the same recipe's model that did hold patients out.

    Returns:
        What calibration.json holds: without a gate, whose limits are of that network's features, and without what is
        expected of answers.
    """
    names = ("version", "temperature", "prediction_set")
    return {"borrowed_from": source.id, **{name: source.calibration[name] for name in names}}


def _expected(
    dataset: Dataset,
    learnt: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    refused: Sequence[bool],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Describe slices that were learnt from, and the answers to those of the validation part."""
    order = learnt[by_shard(learnt, len(dataset))]
    answered = ~np.array(refused, bool)
    said = probabilities[answered].argmax(1)
    labels = {name: int((said == index).sum()) for index, name in enumerate(classes)}
    statistics = [statistics_of(dataset.images[row]) for row in order]
    return fit_reference(statistics, probabilities[answered].max(1), labels | {REFUSED: int((~answered).sum())})


def load_gate(folder: ModelFolder) -> Gate:
    """Build a model's gate; of one that was not calibrated, it refuses only colour and blank pictures.

    Raises InputError where another version of this code has calibrated it: its limits are of other numbers.
    """
    found = folder.calibration.get("version", VERSION)
    if found != VERSION:
        raise InputError(
            folder.path / "calibration.json",
            found=f"version {found}",
            expected=f"version {VERSION}, which this program measures",
            fix="remove RUN/model and give the same train command again: it makes the model anew from its checkpoint",
        )
    reference = load_reference(folder)
    cloud = Cloud(*(reference[name].numpy() for name in CLOUD)) if set(CLOUD) <= set(reference) else None
    return Gate(folder.calibration.get("gate", {}).get("limits"), cloud)


def golden_rows(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose up to GOLDEN slices, as many of each class as possible, spread over each class's order.

    Slices whose two top classes are within MARGIN are left out, as another engine's rounding may turn them.

    Returns:
        Positions in `labels`, ascending; of everything where no slice has the margin, as of a network that learnt
        nothing.
    """
    ranked = np.sort(probabilities, axis=1)
    clear = np.flatnonzero(ranked[:, -1] - ranked[:, -2] >= MARGIN)
    if not len(clear):
        clear = np.arange(len(labels))
    names = np.unique(labels[clear])
    queues = [list(_spread(clear[labels[clear] == name], GOLDEN)) for name in names]
    chosen: list[int] = []
    while len(chosen) < GOLDEN and any(queues):
        chosen += [int(queue.pop(0)) for queue in queues if queue][: GOLDEN - len(chosen)]
    return np.array(sorted(chosen), np.int64)


def learnt_rows(rows: NDArray[np.int64], dataset: Dataset, classes: Sequence[str]) -> NDArray[np.int64]:
    """Take LEARNT of some rows or few more, evenly spaced in each class, and some of every class, however rare."""
    sample = sample_of(rows, dataset)
    labels, taken = class_numbers(dataset, sample, classes), []
    for index, name in enumerate(classes):
        mine = sample[labels == index]
        if not len(mine):  # a sample of a large dataset may be without it
            mine = np.array([row for row in rows if dataset.labels[row] == name], np.int64)
        taken.append(_spread(mine, max(1, -(-LEARNT * len(mine) // max(LEARNT, len(sample))))))
    return np.sort(np.concatenate(taken))


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Take at most `most` of some rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _outputs(
    engine: Engine, dataset: Dataset, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run slices through the network: (R, K) logits and (R, F) features."""
    order = by_shard(rows, len(dataset))
    ordered = rows[order]
    parts = [engine(torch.from_numpy(dataset.images[ordered[at : at + BATCH]])) for at in range(0, len(rows), BATCH)]
    back = torch.from_numpy(np.argsort(order))
    return (
        torch.cat([part.logits for part in parts])[back].numpy(),
        torch.cat([part.features for part in parts])[back].numpy(),
    )

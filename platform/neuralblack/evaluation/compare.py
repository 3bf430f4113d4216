"""Two evaluations of the same slices side by side, with the interval of each difference by itself.

Of sixteen intervals of 95% one leaves 0 out by chance often, where both models are equally good; so one number, that of
the promotion gate (macro-F1 over slices), is marked where it is more than chance, and the others are not.

neuralblack compare REPORT_A REPORT_B
"""

from pathlib import Path
from typing import Any

import numpy as np

from neuralblack.errors import InputError
from neuralblack.evaluation.bootstrap import differences
from neuralblack.evaluation.metrics_file import PREDICTIONS, read_metrics
from neuralblack.evaluation.patients import Slices, read_predictions


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare two evaluations.

    Args:
        first, second: what `evaluate` wrote, of the same slices.

    Returns:
        names of the two models; slices and patients: how many, and for each number (without those per class)
        [first, second, [low, high]], the 95% interval of second minus first over the same resampled patients; right:
        slices that both, only the first, only the second and neither got right.

    Raises:
        InputError: an evaluation is missing or damaged, or they are of other slices, labels, classes or patients.

    """
    ours, theirs = paired(first, second)
    metrics = [read_metrics(folder) for folder in (first, second)]
    classes = metrics[0]["classes"]
    found: dict[str, Any] = {"names": [each["model"]["name"] for each in metrics]}
    for level, before, after in (("slices", ours, theirs), ("patients", ours.by_patient(), theirs.by_patient())):
        numbers = [each.summary(classes) for each in (before, after)]
        found[level] = {"count": len(before.labels)} | {
            name: [numbers[0][name], numbers[1][name], interval]
            for name, interval in differences((after, before)).items()
        }
    hits = [each.probabilities.argmax(1) == each.labels for each in (ours, theirs)]
    found["right"] = {
        "both": int((hits[0] & hits[1]).sum()),
        "only the first": int((hits[0] & ~hits[1]).sum()),
        "only the second": int((~hits[0] & hits[1]).sum()),
        "neither": int((~hits[0] & ~hits[1]).sum()),
    }
    return found


def paired(first: Path, second: Path) -> tuple[Slices, Slices]:
    """Read two evaluations of the same slices, in one order.

    Raises:
        InputError: an evaluation is missing or damaged, or they are of other slices, labels, classes or patients.

    """
    classes = [read_metrics(folder)["classes"] for folder in (first, second)]
    if classes[0] != classes[1]:
        raise InputError(
            second,
            found=f"the classes {', '.join(classes[1])}",
            expected=", ".join(classes[0]),
            fix="compare models of the same classes",
        )
    slices, keys = [], []
    for folder in (first, second):
        if not (folder / PREDICTIONS).is_file():
            raise InputError(
                folder,
                found=f"no {PREDICTIONS}",
                expected="all that evaluate wrote",
                fix="neuralblack evaluate RUN DATASET --out REPORT again",
            )
        ids, found = read_predictions(folder / PREDICTIONS, classes[0])
        order = np.argsort(ids)
        patients = [found.patients[index] for index in order]
        slices.append(Slices(found.labels[order], found.probabilities[order], patients))
        keys.append([(ids[index], label) for index, label in zip(order, slices[-1].labels.tolist(), strict=True)])
    if keys[0] != keys[1]:
        raise InputError(
            second,
            found=f"{len(keys[1])} slices, {len(set(keys[0]) & set(keys[1]))} of which are also in {first}",
            expected=f"the same {len(keys[0])} slices with the same labels",
            fix="evaluate both on the same folds of the same dataset",
        )
    together = set(zip(slices[0].patients, slices[1].patients, strict=True))
    for one in slices:
        if len(set(one.patients)) != len(together):  # a patient here has slices of several there
            raise InputError(
                second,
                found=f"the same slices as in {first}, of {len(set(slices[1].patients))} patients grouped otherwise",
                expected=f"slices of the same {len(set(slices[0].patients))} patients",
                fix="evaluate both on one dataset, as patients that no file names are grouped anew in every other; for "
                "the champion: promote --champion-evaluation REPORT",
            )
    return slices[0], slices[1]

"""One table of a cross-validation: mean and spread over runs, all slices pooled, and patients instead of slices."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from neuralblack.evaluation.bootstrap import DRAWS, intervals
from neuralblack.evaluation.patients import Slices, read_predictions

NUMBERS = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece", "accuracy_at_90")


def table_of(rounds: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Summarise a cross-validation.

    Args:
        rounds: for each run its `seed`, its test `fold`, and `predictions`, the path of evaluate's predictions.parquet.
        classes: of the models, in the order of their probabilities.

    Returns:
        runs: seed, fold, slices, patients and NUMBERS of each.
        mean, sd: of NUMBERS over all runs (sd with one less than their count; None of a single run).
        pooled: `metrics.summarise` of all test slices of a seed together, NUMBERS averaged over seeds, and `intervals`.
            Their calibration error is of each fold's model by itself, averaged over slices.
        patients: the same of patients, each judged by the mean of its slices' log-probabilities.

    """
    runs, by_seed = [], dict[int, list[Slices]]()
    for each in rounds:
        _, slices = read_predictions(each["predictions"], classes)
        runs.append({"seed": each["seed"], "fold": each["fold"], **_numbers(slices, classes)})
        by_seed.setdefault(each["seed"], []).append(slices)
    whole = [Slices.together(parts) for parts in by_seed.values()]
    values = {name: [run[name] for run in runs] for name in NUMBERS}
    return {
        "runs": runs,
        "mean": {name: mean(found) for name, found in values.items()},
        "sd": {name: _spread(found) for name, found in values.items()},
        "pooled": averaged(whole, classes),
        "patients": averaged([one.by_patient() for one in whole], classes),
    }


def _numbers(slices: Slices, classes: Sequence[str]) -> dict[str, Any]:
    """Take NUMBERS, slices, patients, and the sensitivity to each class."""
    found = slices.summary(classes)
    return {
        "slices": found["slices"],
        "patients": found["patients"],
        **{name: found[name] for name in NUMBERS},
        "sensitivity": {name: one["sensitivity"] for name, one in found["per_class"].items()},
    }


def averaged(seeds: Sequence[Slices], classes: Sequence[str]) -> dict[str, Any]:
    """Average NUMBERS and the sensitivity to each class over seeds, with the intervals of the averages."""
    each = [_numbers(one, classes) for one in seeds]
    return {
        "count": each[0]["slices"],
        **{name: mean([one[name] for one in each]) for name in NUMBERS},
        "sensitivity": {name: mean([one["sensitivity"][name] for one in each]) for name in classes},
        "intervals": intervals(*seeds, classes=classes),
    }


def mean(values: Sequence[float | None]) -> float | None:
    """Average what was measured everywhere."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _spread(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None


def markdown(table: Mapping[str, Any], *, title: str) -> str:
    """Write the table for people."""
    lines = [
        f"# {title}",
        "",
        "| | slices | accuracy | balanced accuracy | macro-F1 | MCC | log loss | Brier | calibration error | "
        "accuracy at 90% coverage |",
        "|---|" + "---|" * (len(NUMBERS) + 1),
    ]
    lines += [f"| fold {run['fold']}, seed {run['seed']} | {run['slices']} | {_cells(run)} |" for run in table["runs"]]
    lines.append(f"| **mean of {len(table['runs'])} runs** | | {_cells(table['mean'])} |")
    if table["sd"]["accuracy"] is not None:
        lines.append(f"| standard deviation | | {_cells(table['sd'])} |")
    for name, part in (("all slices pooled", table["pooled"]), ("verdicts on patients", table["patients"])):
        lines.append(f"| {name} | {part['count']} | {_cells(part)} |")
        lines.append(f"| 95% interval | | {' | '.join(_bounds(part['intervals'][number]) for number in NUMBERS)} |")
    heads = " | ".join(table["pooled"]["sensitivity"])
    lines += ["", f"| sensitivity | {heads} |", "|---|" + "---|" * len(table["pooled"]["sensitivity"])]
    for name, part in (("slices, pooled", table["pooled"]), ("patients", table["patients"])):
        values = " | ".join("n/a" if value is None else f"{value:.3f}" for value in part["sensitivity"].values())
        lines.append(f"| {name} | {values} |")
        bounds = (one["sensitivity"] for one in part["intervals"]["per_class"].values())
        lines.append(f"| 95% interval | {' | '.join(map(_bounds, bounds))} |")
    lines += [
        "",
        f"Intervals: percentile bootstrap over patients, {DRAWS:,} draws; of the calibration error the basic one. "
        "Pooled, that error is of each fold's model by itself, then averaged over slices: errors of two do not cancel.",
    ]
    return "\n".join(lines) + "\n"


def _cells(numbers: Mapping[str, Any]) -> str:
    return " | ".join("n/a" if numbers[name] is None else f"{numbers[name]:.3f}" for name in NUMBERS)


def _bounds(interval: Sequence[float] | None) -> str:
    return "n/a" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"

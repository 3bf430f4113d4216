"""One table of a cross-validation: mean and spread over runs, all slices pooled, and patients instead of slices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neuralblack.metrics import summarise

NUMBERS = ("accuracy", "macro_f1", "log_loss", "ece")
LEAST = 1e-7  # a probability below counts as this one in a logarithm


def table_of(rounds: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Summarise a cross-validation.

    Args:
        rounds: for each run its `seed`, its test `fold`, and `predictions`, the path of evaluate's predictions.parquet.
        classes: of the models, in the order of their probabilities.

    Returns:
        runs: seed, fold, slices, patients and NUMBERS of each.
        mean, sd: of NUMBERS over all runs (sd with one less than their count; None of a single run).
        pooled: `metrics.summarise` of all test slices of a seed together, NUMBERS averaged over seeds.
        patients: the same of patients, each judged by the mean of its slices' log-probabilities.

    """
    runs, by_seed = [], dict[int, list[Slices]]()
    for each in rounds:
        slices = Slices.read(each["predictions"], classes)
        runs.append({"seed": each["seed"], "fold": each["fold"], **slices.summary(classes)})
        by_seed.setdefault(each["seed"], []).append(slices)
    whole = [Slices.together(parts) for parts in by_seed.values()]
    values = {name: np.array([run[name] for run in runs]) for name in NUMBERS}
    return {
        "runs": runs,
        "mean": {name: float(found.mean()) for name, found in values.items()},
        "sd": {name: float(found.std(ddof=1)) if len(found) > 1 else None for name, found in values.items()},
        "pooled": _averaged([one.summary(classes) for one in whole]),
        "patients": _averaged([one.by_patient().summary(classes) for one in whole]),
    }


class Slices:
    """What a model said of N slices (or patients): labels (N,), probabilities (N, K), patients."""

    def __init__(self, labels: NDArray[np.int64], probabilities: NDArray[np.float64], patients: Sequence[str]) -> None:
        self.labels, self.probabilities, self.patients = labels, probabilities, list(patients)

    @classmethod
    def read(cls, path: Path, classes: Sequence[str]) -> "Slices":
        """Read evaluate's predictions.parquet."""
        table = pq.read_table(path)
        probabilities = np.stack([table[f"p({name})"].to_numpy() for name in classes], 1).astype(np.float64)
        labels = np.array([classes.index(name) for name in table["label"].to_pylist()], np.int64)
        return cls(labels, probabilities / probabilities.sum(1, keepdims=True), table["patient"].to_pylist())

    @classmethod
    def together(cls, parts: Sequence["Slices"]) -> "Slices":
        """Pool the parts of one seed."""
        return cls(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            [patient for part in parts for patient in part.patients],
        )

    def by_patient(self) -> "Slices":
        """Judge each patient once: softmax of the mean of the slices' log-probabilities.

        A patient with slices of two labels, which this data does not have, would count once for each.
        """
        groups: dict[tuple[str, int], list[int]] = {}
        for index, (patient, label) in enumerate(zip(self.patients, self.labels.tolist(), strict=True)):
            groups.setdefault((patient, label), []).append(index)
        logs = np.log(self.probabilities.clip(LEAST))
        means = np.exp(np.stack([logs[rows].mean(0) for rows in groups.values()]))
        labels = np.array([label for _, label in groups], np.int64)
        return Slices(labels, means / means.sum(1, keepdims=True), [patient for patient, _ in groups])

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Count what was right: NUMBERS, slices, patients, and the sensitivity to each class."""
        found = summarise(self.labels, self.probabilities, classes)
        return {
            "slices": len(self.labels),
            "patients": len(set(self.patients)),
            **{name: found[name] for name in NUMBERS},
            "sensitivity": {name: one["sensitivity"] for name, one in found["per_class"].items()},
        }


def _averaged(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = summaries[0]
    return {
        "count": first["slices"],
        **{name: float(np.mean([one[name] for one in summaries])) for name in NUMBERS},
        "sensitivity": {
            name: float(np.mean([one["sensitivity"][name] for one in summaries]))
            if all(one["sensitivity"][name] is not None for one in summaries)
            else None
            for name in first["sensitivity"]
        },
    }


def markdown(table: Mapping[str, Any], *, title: str) -> str:
    """Write the table for people."""
    lines = [
        f"# {title}",
        "",
        "| | slices | accuracy | macro-F1 | log loss | calibration error |",
        "|---|---|---|---|---|---|",
    ]
    lines += [f"| fold {run['fold']}, seed {run['seed']} | {run['slices']} | {_cells(run)} |" for run in table["runs"]]
    lines.append(f"| **mean of {len(table['runs'])} runs** | | {_cells(table['mean'])} |")
    if table["sd"]["accuracy"] is not None:
        lines.append(f"| standard deviation | | {_cells(table['sd'])} |")
    lines.append(f"| all slices pooled | {table['pooled']['count']} | {_cells(table['pooled'])} |")
    lines.append(f"| patients | {table['patients']['count']} | {_cells(table['patients'])} |")
    heads = " | ".join(table["pooled"]["sensitivity"])
    lines += ["", f"| sensitivity | {heads} |", "|---|" + "---|" * len(table["pooled"]["sensitivity"])]
    for name, part in (("slices, pooled", table["pooled"]), ("patients", table["patients"])):
        values = " | ".join("n/a" if value is None else f"{value:.3f}" for value in part["sensitivity"].values())
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines) + "\n"


def _cells(numbers: Mapping[str, Any]) -> str:
    return " | ".join("n/a" if numbers[name] is None else f"{numbers[name]:.3f}" for name in NUMBERS)

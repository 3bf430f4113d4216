"""From slices to patients: a verdict for each patient, from what a model says of its slices."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from neuralblack.errors import InputError
from neuralblack.metrics import LEAST, summarise

VERDICT = "mean logit"

Rows = NDArray[np.float64]  # (slices, K) probabilities of one patient -> (K,), which need not add up to 1
VERDICTS: dict[str, Callable[[Rows], Rows]] = {
    VERDICT: lambda rows: np.exp(np.log(rows.clip(LEAST)).mean(0)),  # softmax forgets each slice's constant
    "mean probability": lambda rows: rows.mean(0),
    "vote": lambda rows: np.eye(rows.shape[1])[rows.argmax(1)].mean(0),
    "surest slice": lambda rows: rows[rows.max(1).argmax()],
}


class Slices:
    """What models said of N slices (or patients): labels (N,), probabilities (N, K), patients, and which model, (N,).

    Models count from 0; none given: there is one.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        probabilities: NDArray[np.floating],
        patients: Sequence[str],
        models: NDArray[np.int64] | None = None,
    ) -> None:
        rows = probabilities.astype(np.float64)
        self.labels, self.probabilities, self.patients = labels, rows / rows.sum(1, keepdims=True), list(patients)
        self.models = np.zeros(len(labels), np.int64) if models is None else models

    @classmethod
    def together(cls, parts: Sequence["Slices"]) -> "Slices":
        """Pool the parts of one seed, each of a model of its own."""
        return cls(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
            [patient for part in parts for patient in part.patients],
            np.repeat(np.arange(len(parts)), [len(part.labels) for part in parts]),
        )

    def by_patient(self, verdict: str = VERDICT) -> "Slices":
        """Let each model judge each of its patients once, by a row of VERDICTS.

        A patient with slices of two labels, such as near-duplicates under two class folders, counts once for each.
        """
        groups: dict[tuple[str, int, int], list[int]] = {}
        for index, key in enumerate(zip(self.patients, self.labels.tolist(), self.models.tolist(), strict=True)):
            groups.setdefault(key, []).append(index)
        labels, models = (np.array([key[at] for key in groups], np.int64) for at in (1, 2))
        rows = np.stack([VERDICTS[verdict](self.probabilities[rows]) for rows in groups.values()])
        return Slices(labels, rows, [patient for patient, *_ in groups], models)

    def tempered(self, power: float) -> "Slices":
        """Raise the probabilities to a power and scale them: where a temperature T was applied, T undoes it."""
        raised = self.probabilities.clip(np.finfo(np.float32).tiny) ** power
        return Slices(self.labels, raised, self.patients, self.models)

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Count what was right: `metrics.summarise`, and how many patients there are."""
        found = summarise(self.labels, self.probabilities, classes, models=self.models)
        return {**found, "patients": len(set(self.patients))}


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[list[str], Slices]:
    """Read evaluate's predictions.parquet: ids, and what the model said; raises InputError where that is damaged."""
    try:
        table = pq.read_table(path)
        probabilities = np.stack([table[f"p({name})"].to_numpy() for name in classes], 1)
        labels = np.array([classes.index(name) for name in table["label"].to_pylist()], np.int64)
        return table["id"].to_pylist(), Slices(labels, probabilities, table["patient"].to_pylist())
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # cut off, without a column, of other classes
        raise InputError(
            path,
            found=f"a table that cannot be used ({type(error).__name__})",
            expected=f"id, patient, label and a probability of {', '.join(classes)}, as evaluate writes them",
            fix="neuralblack evaluate RUN DATASET --out REPORT; for the champion: promote --champion-evaluation REPORT",
        ) from error

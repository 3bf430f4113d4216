"""What metrics.json holds, field by field: written by `evaluate`, read again by `compare` and by the promotion gate."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from neuralblack.config import checked
from neuralblack.errors import InputError
from neuralblack.files import read_json

VERSION = 2
METRICS, PREDICTIONS, REPORT = "metrics.json", "predictions.parquet", "report.html"

Share = Annotated[float, Field(ge=0, le=1)]
Correlation = Annotated[float, Field(ge=-1, le=1)]
Cost = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class OneClass(BaseModel, extra="forbid"):
    """A class against the rest; None where no slice could show it."""

    slices: Count
    tp: Count
    fp: Count
    fn: Count
    tn: Count
    sensitivity: Share | None
    specificity: Share | None
    precision: Share | None
    f1: Share | None
    auroc: Share | None


class Summary(BaseModel, extra="forbid"):
    """What `metrics.summarise` counts."""

    slices: Count
    accuracy: Share | None
    balanced_accuracy: Share | None
    macro_f1: Share | None
    mcc: Correlation | None
    log_loss: Cost | None
    brier: Annotated[float, Field(ge=0, le=2)] | None
    ece: Share | None
    accuracy_at_90: Share | None
    classes: list[str]
    confusion: list[list[Count]]
    per_class: dict[str, OneClass]


class ClassIntervals(BaseModel, extra="forbid"):
    """95% intervals of a class's numbers."""

    sensitivity: Interval | None
    specificity: Interval | None
    precision: Interval | None
    f1: Interval | None
    auroc: Interval | None


class Intervals(BaseModel, extra="forbid"):
    """95% intervals over patients; None where fewer than two patients, or most draws, could not show the number."""

    accuracy: Interval | None
    balanced_accuracy: Interval | None
    macro_f1: Interval | None
    mcc: Interval | None
    log_loss: Interval | None
    brier: Interval | None
    ece: Interval | None
    accuracy_at_90: Interval | None
    per_class: dict[str, ClassIntervals]


class Verdict(BaseModel, extra="forbid"):
    """Another way from slices to patients."""

    accuracy: Share | None
    macro_f1: Share | None
    log_loss: Cost | None


class Patients(Summary, extra="forbid"):
    """One verdict a patient, the softmax of the mean of its slices' logits; `slices` counts the verdicts."""

    intervals: Intervals
    alternatives: dict[str, Verdict]


class Sets(BaseModel, extra="forbid"):
    """Prediction sets: the share that holds the true class, and the mean number of classes in one."""

    covered: Share
    mean_size: Annotated[float, Field(ge=0)]


class Uncalibrated(BaseModel, extra="forbid"):
    """The same before the temperature."""

    temperature: Annotated[float, Field(gt=0)]
    ece: Share
    log_loss: Cost


class Metrics(Summary, extra="forbid"):
    """The whole file."""

    version: Annotated[int, Field(ge=VERSION, le=VERSION)]
    intervals: Intervals
    by_patient: Patients
    patients: Count
    unnamed_patients: Annotated[Count, Field(description="Groups of near-duplicates whose files name no patient.")]
    uncalibrated: Uncalibrated
    prediction_sets: Sets
    refused: Count
    model: dict[str, str]
    dataset: dict[str, Any]
    left_out: dict[str, list[str]]
    baselines: dict[str, Summary]


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read an evaluation's numbers; raises InputError where the file is not there, or of another version."""
    path = folder / METRICS
    if not path.exists():
        raise InputError(
            folder, found=f"no {METRICS}", expected="what `neuralblack evaluate` wrote", fix="evaluate the model first"
        )
    values: dict[str, Any] = read_json(path)
    checked(Metrics, values, where=path)
    return values

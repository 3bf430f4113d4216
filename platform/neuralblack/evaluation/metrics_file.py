"""What metrics.json holds, field by field: written by `evaluate`, read again by `compare` and by the promotion gate."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from neuralblack.config import checked
from neuralblack.errors import InputError
from neuralblack.files import read_json

VERSION = 4
OLDEST = 3  # without what was learnt from each source
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


class AccuracyIntervals(BaseModel, extra="forbid"):
    """95% intervals over patients."""

    accuracy: Interval | None
    balanced_accuracy: Interval | None


class TumourOnly(BaseModel, extra="forbid"):
    """The slices with a tumour alone; "no tumour" is a wrong answer to them."""

    slices: Count
    called_no_tumour: Count
    accuracy: Share | None
    balanced_accuracy: Share | None
    macro_f1: Share | None
    intervals: AccuracyIntervals


class OneSource(BaseModel, extra="forbid"):
    """The slices of one source alone; sensitivity to the classes that it has."""

    slices: Count
    learnt: Annotated[
        Count | None, Field(description="Slices of this source that were learnt from; None: not known.")
    ] = None
    accuracy: Share
    sensitivity: dict[str, Share]


class RecordWise(BaseModel, extra="forbid"):
    """What a method reaches where train and test share patients."""

    accuracy: Share
    macro_f1: Share


class Worth(BaseModel, extra="forbid"):
    """What answers are worth on slices changed in one way."""

    accuracy: Share
    ece: Share


class Robustness(BaseModel, extra="forbid"):
    """Disturbance -> strength -> what answers are worth, on some of the slices."""

    slices: Count
    undisturbed: Worth
    disturbed: dict[str, dict[str, Worth]]


class Pointing(BaseModel, extra="forbid"):
    """Heat maps against tumour boxes: hits, mass inside, and the box's share of the picture, which is chance."""

    slices: Count
    pointing: Share
    mass: Share
    box: Share


class Copies(BaseModel, extra="forbid"):
    """Whether copies of learnt slices were looked for, and those that were left out."""

    looked_for: bool
    left_out: list[str]


class Metrics(Summary, extra="forbid"):
    """The whole file."""

    version: Annotated[int, Field(ge=OLDEST, le=VERSION)]
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
    record_wise: dict[str, RecordWise]
    tumour_only: Annotated[TumourOnly | None, Field(description="None where the model has no class without a tumour.")]
    by_source: dict[str, OneSource]
    copies: Copies
    robustness: Annotated[Robustness | None, Field(description="None where it was not measured.")]
    pointing: Annotated[dict[str, Pointing] | None, Field(description="None where it was not measured.")]
    alarms: Annotated[list[str], Field(description="What to check before believing the numbers.")]


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

"""What drift shows of real slices: those of other patients as they are, and changed in every way at every strength.

python -m benchmarks.drift data/slices --fold 4
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from benchmarks.machine import foot
from numpy.typing import NDArray

from neuralblack.data.dataset import open_dataset
from neuralblack.data.drift import CONFIDENCE, LABEL, fit_reference, statistics_of
from neuralblack.data.patients import is_named
from neuralblack.errors import InputError
from neuralblack.evaluation.disturbances import DISTURBANCES, disturb
from neuralblack.evaluation.drift import measure_drift
from neuralblack.service.drift import Drift
from neuralblack.service.meter import Meter

ROOT = Path(__file__).resolve().parents[1]
LEARNT = 2000  # slices, as of a run


@dataclass(frozen=True)
class Answer:
    """The same to every slice: what is shown here are the pixels' statistics."""

    status: str = "ok"
    label: str | None = "glioma"
    probabilities: dict[str, float] | None = None
    prediction_set: tuple[str, ...] | None = None
    coverage: float | None = None
    reasons: tuple[()] = ()


def main(
    data: Annotated[Path, typer.Argument(help="A prepared dataset.")],
    fold: Annotated[int, typer.Option(help="Whose slices come; the others' are learnt from.")] = 4,
    out: Annotated[Path, typer.Option(help="The report.")] = ROOT / "docs" / "benchmarks" / "drift.md",
) -> None:
    """Measure, print, and write the report."""
    dataset = open_dataset(data)
    learnt, came = (np.flatnonzero((dataset.folds > 0) & one) for one in (dataset.folds != fold, dataset.folds == fold))
    if not len(learnt) or not len(came):
        raise InputError(data, found=f"nothing in fold {fold}, or nothing else", expected="folds", fix="--fold N")
    learnt = np.random.default_rng(0).permutation(learnt)[:LEARNT]
    images = np.stack([dataset.images[row] for row in came])
    reference = fit_reference([statistics_of(dataset.images[row]) for row in learnt], np.zeros(0), {"glioma": 1})
    names = [name for name in reference if name not in (LABEL, CONFIDENCE)]
    lines = [
        "# What drift shows",
        "",
        f"Population stability index of {len(came):,} slices of {whose([dataset.patients[row] for row in came])} in "
        f"fold {fold}, against {len(learnt):,} slices of the other folds: below 0.1 as expected, above",
        "0.25 another population. All slices are changed alike, as by another scanner or another way to export.",
        "",
        f"| {' | '.join(['slices', *names])} |",
        "|---" * (len(names) + 1) + "|",
    ]
    found, seconds = _indices(reference, images)
    lines.append(_line("as they are", found, names))
    for name, row in DISTURBANCES.items():
        for strength in row.strengths:
            changed = np.stack([disturb(image, name, strength, seed=index) for index, image in enumerate(images)])
            lines.append(_line(f"{name}, {strength}", _indices(reference, changed)[0], names))
            print(lines[-1], flush=True)
    lines += [
        "",
        f"Counting a slice took {1e6 * seconds / len(images):.0f} microseconds.",
        *foot("benchmarks.drift"),
    ]
    print("\n".join(lines))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines))


def whose(patients: Sequence[str]) -> str:
    """Say of how many patients slices are, and of how many groups of near-duplicates that stand in for some.

    What a file or a folder calls a patient is taken for one: that it is none, only who made the files can know.
    """
    names = set(patients)
    named = sum(map(is_named, names))
    groups = len(names) - named
    return f"{named:,} patients" + (f" and {groups:,} groups of near-duplicates" if groups else "")


def _indices(reference: dict[str, object], images: NDArray[np.uint8]) -> tuple[dict[str, float], float]:
    """Count slices as a service does: each statistic's index, and the seconds that it took."""
    meter = Meter()
    meter.describe(name="none", version="0", pending=lambda: 0)
    listener, start = Drift(reference, meter), time.perf_counter()
    for image in images:
        listener(image, Answer())
    seconds = time.perf_counter() - start
    statistics = measure_drift({"here": meter.text().decode()})["statistics"]
    return {name: one["index"] for name, one in statistics.items()}, seconds


def _line(what: str, found: dict[str, float], names: list[str]) -> str:
    cells = [f"**{found[name]:.2f}**" if found[name] >= 0.25 else f"{found[name]:.2f}" for name in names]
    return f"| {' | '.join([what, *cells])} |"


if __name__ == "__main__":
    typer.run(main)

"""What an evaluation costs beside the bare forward pass: the same slices, turn and turn about.

python -m benchmarks.evaluate runs/first data/slices
"""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from benchmarks.intervals import bootstrap, paired_ratio
from benchmarks.machine import Disturbance, foot
from numpy.typing import NDArray

from neuralblack.data.dataset import Dataset, class_numbers, open_dataset
from neuralblack.errors import InputError
from neuralblack.evaluation.bootstrap import intervals
from neuralblack.evaluation.evaluate import BATCH, evaluate
from neuralblack.evaluation.patients import Slices
from neuralblack.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]
Seconds = dict[str, dict[int, float]]  # what was timed -> round -> seconds
BARE, WHOLE, RESAMPLED = "bare forward pass", "evaluation with report and card", "its 2,000 resampled sets of patients"


def main(
    model: Annotated[Path, typer.Argument(help="A run or a model folder.")],
    data: Annotated[Path, typer.Argument(help="A prepared dataset; slices that were learnt from may be among them.")],
    slices: Annotated[int, typer.Option(min=64, help="How many, spread over the dataset; at most all.")] = 3064,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    engine: Annotated[str, typer.Option(help="Of both.")] = "auto",
    out: Annotated[Path, typer.Option(help="The report.")] = ROOT / "docs" / "benchmarks" / "evaluate.md",
) -> None:
    """Measure, print, and write the report."""
    logging.basicConfig(level=logging.WARNING)
    dataset, predictor = open_dataset(data), Predictor.load(model, engine=engine)
    known = np.flatnonzero([label in predictor.classes for label in dataset.labels])
    if len(known) < slices:
        raise InputError(data, found=f"{len(known)} slices", expected=f"{slices}", fix=f"--slices {len(known)}")
    rows = known[np.linspace(0, len(known) - 1, slices).astype(np.int64)]
    disturbance = Disturbance()
    took = measure(predictor, dataset, rows, rounds=rounds)
    report = as_report(took, predictor, slices=slices, disturbance=disturbance)
    print(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report)


def measure(predictor: Predictor, dataset: Dataset, rows: NDArray[np.int64], *, rounds: int) -> Seconds:
    """Time each in turn, `rounds` times, behind one pass that nobody times."""
    labels = class_numbers(dataset, rows, predictor.classes)
    patients = [dataset.patients[row] for row in rows]

    def bare() -> NDArray[np.float32]:
        parts = [predictor.probabilities(dataset.images[rows[at : at + BATCH]]) for at in range(0, len(rows), BATCH)]
        return np.concatenate(parts)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            evaluate(
                predictor,
                dataset,
                rows,
                Path(folder) / "report",
                explain=predictor.explain,
                history=predictor.folder.history,
                split=predictor.folder.split,
                made=predictor.folder.card,
            )

    answers = Slices(labels, bare(), patients)
    timed: dict[str, Callable[[], object]] = {
        BARE: bare,
        WHOLE: whole,
        RESAMPLED: lambda: intervals(answers, classes=predictor.classes),
    }
    took: Seconds = {name: {} for name in timed}
    for number in range(rounds):
        for name, work in timed.items():
            start = time.perf_counter()
            work()
            took[name][number] = time.perf_counter() - start
        print(f"round {number + 1}", {name: round(each[number], 1) for name, each in took.items()}, flush=True)
    return took


def as_report(took: Seconds, predictor: Predictor, *, slices: int, disturbance: Disturbance) -> str:
    """Put it into words."""
    lines = [
        "# What an evaluation costs",
        "",
        f"{slices:,} slices, model {predictor.name}, engine `{predictor.engine}`; medians over "
        f"{len(took[BARE])} rounds (95% interval), taken in turn.",
        "",
        "| | seconds | beside the bare pass |",
        "|---|---|---|",
    ]
    for name, seconds in took.items():
        lines.append(f"| {name} | {bootstrap(list(seconds.values()))} | {paired_ratio(seconds, took[BARE])} |")
    lines += [
        "",
        "The evaluation is `neuralblack evaluate --no-baselines`: gate and prediction sets, intervals, the table of",
        "every prediction, a report with heat maps of its examples, the model card. Simpler means (`--baselines`) fit",
        "a linear probe on features of the training part, and cost another pass over it.",
        *foot("benchmarks.evaluate", disturbance.describe()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)

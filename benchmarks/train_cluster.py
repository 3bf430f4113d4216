"""Training in several processes, measured: Ray Train beside plain DDP, the cost of a kill, the start of a trial."""

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarks.intervals import paired_ratio
from benchmarks.processes import MARK, marked

import neuralblack.cluster  # noqa: F401  # first, as it sets what Ray reads when it is imported
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import open_dataset
from neuralblack.data.splits import make_split
from neuralblack.models.table import build_model
from neuralblack.training.checkpoints import load_state, save_state
from neuralblack.training.group import Workers
from neuralblack.training.recipe import train
from neuralblack.training.unfreezing import set_learning, stage_groups

WORKERS = 2
RESOLVED = 0.1  # seconds; two epochs of one trial differ by about as much
PATIENCE_S = 600
EPOCHS = 6  # of a run; the first is not counted


def ray_beside_ddp(config: TrainConfig, data: Path, folder: Path, *, rounds: int) -> Iterator[str]:
    """Train the same epochs under plain DDP and under Ray Train; an epoch's time and its report's.

    And plain DDP beside a Ray Train whose workers sleep: that shows what Ray's processes cost by being there.
    """
    config = config.model_copy(update={"epochs": EPOCHS, "schedule": "all"})
    contenders = {"plain DDP": _under_ddp, "plain DDP beside an idle Ray Train": _beside_ray, "Ray Train": _under_ray}
    epochs: dict[str, dict[int, float]] = {name: {} for name in contenders}
    reports: list[float] = []
    for number in range(rounds):
        for name in random.Random(number).sample(list(contenders), len(contenders)):
            marks = folder / f"{name.replace(' ', '-')}-{number}.json"
            contenders[name]({"config": config.model_dump(), "data": str(data), "marks": str(marks)})
            told = json.loads(marks.read_text())
            epochs[name][number] = statistics.median(after[0] - before[1] for before, after in pairwise(told))
            if name == "Ray Train":
                reports.append(statistics.median(end - start for start, end in told[1:]))
            print(f"round {number + 1}, {name}: {epochs[name][number]:.2f} s an epoch", flush=True)
    plain, *others = contenders
    beside = []
    for name in others:
        ratio = paired_ratio(epochs[name], epochs[plain])
        seconds = statistics.median(epochs[name].values())
        beside.append(f"{name} {seconds:.2f} s, {ratio.median:.3f} ({ratio.low:.3f}–{ratio.high:.3f}) times")
    yield (
        f"An epoch of {config.model} with its validation, all stages, {WORKERS} processes of one thread, medians of "
        f"{EPOCHS - 1} epochs and {rounds} rounds: {plain} {statistics.median(epochs[plain].values()):.2f} s; "
        f"{'; '.join(beside)}. Ray Train's report, a barrier, takes {statistics.median(reports):.2f} s more, however "
        "long the epoch is."
    )


def _train(settings: dict[str, Any], rank: int, size: int, told: Any) -> None:
    torch.set_num_threads(1)
    config = TrainConfig.model_validate(settings["config"])
    dataset = open_dataset(settings["data"])
    split = make_split(dataset, train=None, validation=(2,), test=(1,))
    marks = []

    def report(metrics: dict[str, float], _: object) -> None:
        start = time.perf_counter()
        told(metrics)
        marks.append((start, time.perf_counter()))

    train(config, dataset, split, report=report, group=Workers(rank, size), device="cpu")
    if rank == 0:
        Path(settings["marks"]).write_text(json.dumps(marks))


def _of_ddp(rank: int, settings: dict[str, Any], meeting: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    _train(settings, rank, WORKERS, lambda metrics: None)
    torch.distributed.destroy_process_group()


def _under_ddp(settings: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_of_ddp, (settings, f"{folder}/meeting"), nprocs=WORKERS)


def _beside_ray(settings: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ray = torch.multiprocessing.get_context("spawn").Process(target=_idle_ray, args=(str(folder),))
        ray.start()
        try:
            while len(list(folder.glob("sleeps-*"))) < WORKERS:
                if not ray.is_alive():
                    raise RuntimeError("the idle Ray Train has ended")
                time.sleep(0.1)
            _under_ddp(settings)
        finally:
            (folder / "end").touch()
            ray.join()


def _idle_ray(folder: str) -> None:
    _fit(_sleep, {"folder": folder})


def _sleep(settings: dict[str, Any]) -> None:
    import ray.train

    folder = Path(settings["folder"])
    (folder / f"sleeps-{ray.train.get_context().get_world_rank()}").touch()
    while not (folder / "end").exists():
        time.sleep(0.5)


def _of_ray(settings: dict[str, Any]) -> None:
    import ray.train

    context = ray.train.get_context()
    _train(settings, context.get_world_rank(), context.get_world_size(), ray.train.report)


def _under_ray(settings: dict[str, Any]) -> None:
    _fit(_of_ray, settings)


def _fit(work: Callable[[dict[str, Any]], None], settings: dict[str, Any]) -> None:
    """Run Ray Train's loop over WORKERS workers, in a Ray of its own."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from neuralblack.cluster.session import ray_session

    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=WORKERS):
        TorchTrainer(
            work,
            train_loop_config=settings,
            scaling_config=ray.train.ScalingConfig(num_workers=WORKERS),
            run_config=ray.train.RunConfig(
                storage_path=folder, logging_config=ray.train.LoggingConfig(log_level="ERROR")
            ),
        ).fit()


def checkpoint_cost(folder: Path) -> str:
    """Time a checkpoint of ResNet-50 whose stages all learn: writing, and reading it back with its hashes checked."""
    model = build_model("resnet50", classes=4)
    set_learning(model, len(model), batch_norm="eval")
    optimizer = torch.optim.AdamW(stage_groups(model, lr=1e-3, decay=2.6, weight_decay=0.01), fused=True)
    model(torch.randn(2, 1, 64, 64)).sum().backward()
    optimizer.step()
    state = {"epoch": 0, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "made": {}}
    folder.mkdir()
    start = time.perf_counter()
    save_state(state, {"epoch": 0}, folder)
    written = time.perf_counter()
    load_state(folder)
    read = time.perf_counter()
    size = sum(path.stat().st_size for path in folder.iterdir())
    return (
        f"A checkpoint of ResNet-50 with both moments, {size / 2**20:.0f} MiB: written in {written - start:.2f} s, "
        f"checked and read in {read - written:.2f} s."
    )


def kill_cost(config: TrainConfig, data: Path, run: Path) -> str:
    """Kill the worker of a run under Ray Train and see how much later the next epoch comes."""
    from neuralblack.cluster.train import train_on_cluster

    config = config.model_copy(update={"epochs": EPOCHS, "schedule": "all"})
    epochs, killed = run / "epochs", []
    os.environ[MARK] = uuid.uuid4().hex  # which every process has that is started from here

    def kill() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not (epochs / "0002.json").exists():
            if time.monotonic() > deadline:
                return  # training has failed, or will say so
            time.sleep(0.01)
        killed.append((time.time(), _worker()))
        os.kill(killed[0][1], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    train_on_cluster(config, data=data, run=run, workers=1)
    killer.join()
    ends = [(epochs / f"{number:04d}.json").stat().st_mtime for number in range(EPOCHS)]
    epoch = statistics.median(b - a for a, b in pairwise(ends[3:]))
    return (
        f"A worker of Ray Train killed behind the third epoch: the fourth was done {ends[3] - killed[0][0]:.1f} s "
        f"later, of which {epoch:.1f} s are the epoch's."
    )


def _worker() -> int:
    """Find Ray Train's worker among the processes that this one has started."""
    for pid in marked(os.environ[MARK]):
        try:
            if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:
            continue  # it has ended meanwhile
    raise RuntimeError("no worker of Ray Train is there to be killed")


def trial_starts(config: TrainConfig, data: Path, folder: Path) -> Iterator[str]:
    """Time trials' starts, one trial at a time: from the end of what was before to the first epoch, less the second."""
    from ray import tune

    from neuralblack.cluster.session import ray_session
    from neuralblack.cluster.tune import tune_on_cluster

    config = config.model_copy(update={"epochs": 2, "schedule": "head-only"})
    space = {"lr": tune.loguniform(1e-4, 1e-2)}
    starts = {}
    for workers in (1, 2):
        run = folder / f"starts-{workers}"
        with (
            ray_session(dashboard=True, num_cpus=WORKERS + 1),
            patch("neuralblack.cluster.tune.rungs_of", lambda *_, **__: [config.epochs]),  # nobody is stopped
        ):
            tune_on_cluster(
                config, data=data, run=run, space=space, trials=4, concurrent=1, workers=workers, share_gib=0
            )
        trials = (run / "trials").iterdir()
        ends = sorted([path.stat().st_mtime for path in sorted(trial.glob("epochs/*.json"))] for trial in trials)
        before = [(run / "run.json").stat().st_mtime, *(each[-1] for each in ends[:-1])]
        starts[workers] = [2 * each[0] - each[1] - start for start, each in zip(before, ends, strict=True)]
        print(f"starts with {workers} workers: {starts[workers]}", flush=True)
    cold, warm, inner = starts[1][0], statistics.median(starts[1][1:]), statistics.median(starts[2][1:])
    yield (
        f"A trial starts cold in {cold:.1f} s (with Tune itself), warm in {warm:.2f} s, over an inner TorchTrainer of "
        f"two workers in {inner:.1f} s: from the end of what was before to the end of its first epoch, less its second "
        f"one's time. So warm is {cold / max(warm, RESOLVED):.0f} times as fast as cold"
        f"{f', at least: less than {RESOLVED} s are not resolved' if warm < RESOLVED else ''}."
    )


if __name__ == "__main__":
    sys.exit("python -m benchmarks.train runs these")

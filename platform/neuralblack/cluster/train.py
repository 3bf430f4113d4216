"""Train a model with Ray Train: DDP over any number of workers, each epoch a checkpoint to go on from."""

import errno
import logging
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from neuralblack.cluster.environment import shared_path
from neuralblack.cluster.resume import pass_over_damaged, registered_checkpoints, start_of
from neuralblack.cluster.session import await_resources, cpus_per_worker, ray_session
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import open_dataset
from neuralblack.data.splits import load_split
from neuralblack.errors import InputError, RunError
from neuralblack.files import no_space_is_said, read_json
from neuralblack.inference.reference import calibrate
from neuralblack.registry.model_folder import ModelFolder
from neuralblack.registry.run_folder import history_of, hold_run, record_epoch, start_run
from neuralblack.training.checkpoints import checkpoint_name, save_state, sound
from neuralblack.training.feature_cache import Sharing
from neuralblack.training.group import Workers
from neuralblack.training.loop import Metrics, State
from neuralblack.training.recipe import train
from neuralblack.training.runs import (
    SCORE,
    best_checkpoint,
    check_run,
    earlier_model,
    epoch_line,
    finish_run,
    train_here,
)
from neuralblack.training.tracking import Tracking, check_trackers

log = logging.getLogger(__name__)


def train_on_cluster(
    config: TrainConfig,
    *,
    data: str | Path,
    run: str | Path,
    workers: int = 1,
    gpus: bool = False,
    wait_s: float = 0,
    max_failures: int = 3,
    track: Sequence[str] = (),
) -> ModelFolder:
    """Train on `workers` workers and make the best epoch the run's model folder.

    Args:
        config: the run's numbers.
        data: the dataset's folder, on every node.
        run: the run's folder, on every node. The same command again goes on where it stopped.
        workers: processes that train together; 0 trains in this process, so a debugger works.
        gpus: one GPU for each worker.
        wait_s: how long the autoscaler may take to bring nodes.
        max_failures: times that the workers are started again after one died.
        track: keys of TRACKERS that show the epochs, too.

    Raises:
        InputError: something that can be mended, said before a worker starts where possible.
        RunError: a worker failed.

    """
    config, data, run = on_every_node(config), shared_path(data, name="dataset"), shared_path(run, name="run")
    check_trackers(track)
    if workers == 0:
        return train_here(config, data=data, run=run, calibrate=calibrate, track=track)
    dataset, split = check_run(config, data=data)
    through = earlier_model(run, config, split)
    if through:
        return through
    with ray_session():
        each: dict[str, float] = {"CPU": cpus_per_worker(workers, gpus=gpus), "GPU": float(gpus)}
        await_resources(each, workers, wait_s=wait_s)
        with hold_run(run):
            start_run(run, config=config, split=split.manifest)
            pass_over_damaged(run / "checkpoints")
            with lines_of(run / "log.txt"):
                fit_workers(
                    config, data=data, run=run, workers=workers, each=each, max_failures=max_failures, track=track
                )
            best = best_checkpoint(sound(registered_checkpoints(run / "checkpoints")))
            history = history_of(run)
            return finish_run(run, config, dataset, split, best=best, history=history, calibrate=calibrate)


def on_every_node(config: TrainConfig) -> TrainConfig:
    """Make a weights file's path one that workers find from their own folders."""
    if config.weights in ("imagenet", "none"):
        return config
    return config.model_copy(update={"weights": str(shared_path(config.weights, name="weights"))})


def fit_workers(
    config: TrainConfig,
    *,
    data: Path,
    run: Path,
    workers: int,
    each: dict[str, float],
    max_failures: int,
    callbacks: list[Any] | None = None,
    share: dict[str, Any] | None = None,
    track: Sequence[str] = (),
) -> ray.train.Result:
    """Run Ray Train's loop over the workers; one clean error for what happened in them.

    Args:
        config, data, run: as in `train_on_cluster`, checked already.
        workers: how many.
        each: what each takes, such as {"CPU": 2, "GPU": 1}.
        max_failures: times that the group is started again.
        callbacks: Ray Train's, for a search's reports.
        share: arguments of `Sharing.on_this_node` for a trial of a search; none given: nothing is shared.
        track: keys of TRACKERS.

    """
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(),
            "data": str(data),
            "run": str(run),
            "threads": int(each["CPU"]),
            "share": share,
            "track": list(track),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=bool(each["GPU"]), resources_per_worker={k: v for k, v in each.items() if v}
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=str(run),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=SCORE),
            # A negative limit, Ray's default, would try for ever and say nothing.
            failure_config=ray.train.FailureConfig(max_failures=max_failures, controller_failure_limit=2),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            callbacks=callbacks,
        ),
    )
    try:
        return trainer.fit()
    except ray.train.WorkerGroupError as error:
        rank, cause = min(error.worker_failures.items())
        if isinstance(cause, InputError):
            raise cause from None
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            with no_space_is_said(run):
                raise cause from None
        raise RunError(f"training stopped: rank {rank}: {_said(cause)}") from error
    except ray.train.ControllerError as error:
        raise RunError(f"training did not start: {_said(error.controller_failure)}") from error


def _worker(settings: dict[str, Any]) -> None:
    """What every worker runs: open the data, take its place in the group, train."""
    torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    run, group = Path(settings["run"]), Workers(context.get_world_rank(), context.get_world_size())
    if group.rank == 0:
        log_to(run / "log.txt")
    dataset = open_dataset(Path(settings["data"]))
    split = load_split(read_json(run / "split.json"), dataset)
    config = TrainConfig.model_validate(settings["config"])
    tracking = Tracking(settings["track"] if group.rank == 0 else (), run, config)
    try:
        train(
            config,
            dataset,
            split,
            group=group,
            report=partial(_report, run=run, tracking=tracking),
            start=start_of(ray.train.get_checkpoint()),
            device=str(get_device()),
            sharing=Sharing.on_this_node(**settings["share"]) if settings["share"] else None,
        )
    finally:
        tracking.close()


def _report(metrics: Metrics, state: State, *, run: Path, tracking: Tracking) -> None:
    """Report from every worker, because it is a barrier; rank 0 alone carries the state."""
    name = checkpoint_name(state["epoch"])
    if ray.train.get_context().get_world_rank() > 0:
        ray.train.report(metrics, checkpoint_dir_name=name)
        return
    record_epoch(run, metrics)  # first: an epoch that is done again after a failure overwrites it
    tracking.epoch(metrics)
    with tempfile.TemporaryDirectory() as folder:
        save_state(state, metrics, Path(folder))
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint, checkpoint_dir_name=name)
    log.info("%s", epoch_line(metrics))


def log_to(path: Path) -> None:
    """Send this worker's log of the package to the run's folder, once."""
    package = logging.getLogger("neuralblack")
    package.setLevel(logging.INFO)
    for old in package.handlers:
        old.close()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(message)s"))
    package.handlers = [handler]


@contextmanager
def lines_of(path: Path) -> Iterator[None]:
    """Say here what the workers write into the run's log while a block runs; Ray's own relay adds noise to it."""
    path.touch()
    done = threading.Event()

    def follow() -> None:
        with path.open() as file:
            file.seek(0, 2)
            last = False
            while not last:
                last = done.wait(0.3)  # once more behind the end, for the last lines
                for line in file:
                    log.info("%s", line.rstrip())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _said(error: BaseException) -> str:
    if type(error).__name__ == "WorkerHealthCheckFailedError":
        return "its process died (killed, or out of memory)"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"

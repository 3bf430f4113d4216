"""Train a model with Ray Train: DDP over any number of workers, each epoch a checkpoint to go on from."""

import errno
import logging
import os
import signal
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

from neuralblack.cluster.environment import device_here, shared_dataset, shared_path
from neuralblack.cluster.others import TRAINS, actor_placed, held_by_others, said_while_others_hold
from neuralblack.cluster.resume import clean_up, registered_checkpoints, start_of
from neuralblack.cluster.retries import Retries, cause_of, said
from neuralblack.cluster.session import (
    await_resources,
    beside,
    cpus_per_worker,
    ray_session,
    said_when_nodes_are_lost,
)
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import Dataset, open_dataset
from neuralblack.data.splits import SPLIT_JSON, Split, load_split
from neuralblack.errors import InputError, RunError, known_to_be_there
from neuralblack.files import no_space_is_said, read_json
from neuralblack.inference.reference import calibrate
from neuralblack.registry.cost import Clock
from neuralblack.registry.model_folder import ModelFolder
from neuralblack.registry.run_folder import check_run_folder, history_of, hold_run, record_epoch, start_run
from neuralblack.training.checkpoints import MERIT, Pace, best_checkpoint, checkpoint_name, merit, save_state, sound
from neuralblack.training.feature_cache import Sharing
from neuralblack.training.group import Workers
from neuralblack.training.loop import Metrics, State
from neuralblack.training.recipe import train
from neuralblack.training.runs import (
    check_run,
    earlier_model,
    epoch_line,
    finish_run,
    train_here,
)
from neuralblack.training.tracking import Tracking, check_trackers

log = logging.getLogger(__name__)

START_S = 60.0  # how long the workers may take to find room in the cluster ...
START_LIMIT = 2  # ... and how often Ray Train asks for it again, behind each checkpoint


def train_on_cluster(
    config: TrainConfig,
    *,
    data: str | Path,
    run: str | Path,
    workers: int = 1,
    min_workers: int | None = None,
    gpus: bool = False,
    wait_s: float = 0,
    max_failures: int = 3,
    track: Sequence[str] = (),
    checked: tuple[Dataset, Split] | None = None,
) -> ModelFolder:
    """Train on `workers` workers and make the best epoch the run's model folder.

    Args:
        config: the run's numbers.
        data: the dataset's folder, on every node.
        run: the run's folder, on every node. The same command again goes on where it stopped.
        workers: processes that train together; 0 trains in this process, so a debugger works.
        min_workers: with so many it goes on where a node is lost, and with more when there is room again; none given:
            it waits for room for all of them.
        gpus: one GPU for each worker, or for this process; without, all compute on the CPU.
        wait_s: how long the autoscaler may take to bring nodes, also in place of a lost one.
        max_failures: times that the workers are started again after one died, without a newer checkpoint in between;
            an error that would come again, such as a loss that is no number, ends the run at once.
        track: keys of TRACKERS that show the epochs, too.
        checked: what `check_run` said of this run to who asked it already; none given: it is asked here.

    Raises:
        InputError: something that can be mended, said before a worker starts where possible.
        RunError: a worker failed, or a node was lost and none came in its place.

    """
    if min_workers is not None and not 1 <= min_workers <= workers:
        raise InputError(
            "--min-workers", found=str(min_workers), expected=f"1 to --workers ({workers})", fix="--min-workers N"
        )
    device = device_here(gpus=gpus) if workers == 0 else None
    config, data, run = on_every_node(config), shared_dataset(data), shared_path(run, name="run")
    check_run_folder(run, config=config)  # before weights are downloaded
    check_trackers(track)
    if workers == 0:
        return train_here(config, data=data, run=run, calibrate=calibrate, track=track, device=device, checked=checked)
    dataset, split = checked or check_run(config, data=data)
    through = earlier_model(run, config, split)
    if through:
        return through
    with ray_session(), hold_run(run):  # before anybody waits for machines, or asks for them
        each: dict[str, float] = {"CPU": cpus_per_worker(workers, gpus=gpus), "GPU": float(gpus)}
        await_resources(each, min_workers or workers, wait_s=wait_s)
        start_run(run, config=config, split=split.manifest)
        clean_up(run / "checkpoints")
        with lines_of(run / "log.txt"):
            fit_workers(
                config,
                data=data,
                run=run,
                workers=workers,
                min_workers=min_workers,
                each=each,
                start_s=max(START_S, wait_s),
                max_failures=max_failures,
                track=track,
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
    data: str,
    run: Path,
    workers: int,
    each: dict[str, float],
    max_failures: int,
    min_workers: int | None = None,
    start_s: float = START_S,
    callbacks: Sequence[Any] = (),
    share: dict[str, Any] | None = None,
    track: Sequence[str] = (),
) -> ray.train.Result:
    """Run Ray Train's loop over the workers; one clean error for what happened in them.

    Args:
        config, data, run: as in `train_on_cluster`, checked already.
        workers: how many.
        each: what each takes, such as {"CPU": 2, "GPU": 1}.
        max_failures: as in `train_on_cluster`.
        min_workers: with so many it goes on where a node is lost; none given: with `workers` only.
        start_s: how long the group may take to find room, START_LIMIT + 1 times.
        callbacks: Ray Train's, for a search's reports.
        share: arguments of `Sharing.on_this_node` for a trial of a search; none given: nothing is shared.
        track: keys of TRACKERS.

    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = f"{start_s:g}"  # Ray Train hands it to its controller
    fewest = min_workers or workers
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
            num_workers=workers if fewest == workers else (fewest, workers),
            use_gpu=bool(each["GPU"]),
            resources_per_worker={name: value for name, value in each.items() if value},
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=str(run),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=MERIT),
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1),  # `Retries` ends it
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            callbacks=[*callbacks, Retries(run / "log.txt", losses=max_failures, starts=START_LIMIT)],
        ),
    )
    try:
        with (
            said_when_nodes_are_lost(each, fewest, patience_s=start_s * (START_LIMIT + 1)),
            said_while_others_hold(each, fewest, placed=partial(actor_placed, TRAINS)),
            _ctrl_c_is_said(),
        ):
            return trainer.fit()
    except ray.train.TrainingFailedError as error:
        failure = error.controller_failure if isinstance(error, ray.train.ControllerError) else error
        if isinstance(failure, ray.train.WorkerGroupError):
            rank, cause = cause_of(failure)
            where = f"rank {rank}: "
        else:
            cause, where = failure, ""
        if isinstance(cause, InputError):
            raise cause from None
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            with no_space_is_said(run):
                raise cause from None
        if isinstance(cause, RunError):
            raise RunError(f"training stopped: {cause}") from error
        if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
            held = held_by_others(each, fewest)
            raise RunError(
                f"training stopped: no room for {fewest} workers within {start_s * (START_LIMIT + 1):g} s"
                f"{f' ({held})' if held else ''}; the same command goes on behind the last epoch when there is"
            ) from error
        raise RunError(f"training {'stopped' if where else 'did not start'}: {where}{said(cause)}") from error


@contextmanager
def _ctrl_c_is_said() -> Iterator[None]:
    """Have a line where Ctrl-C ends a block: Ray Train ends the process then, without a word, and would later, too."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise RunError("training was stopped; the same command goes on behind the last epoch") from None
    finally:
        if here:
            signal.signal(signal.SIGINT, before)


def _worker(settings: dict[str, Any]) -> None:
    """What every worker runs: open the data, take its place in the group, train."""
    torch.set_num_threads(settings["threads"])
    context = ray.train.get_context()
    run, group = Path(settings["run"]), Workers(context.get_world_rank(), context.get_world_size())
    if group.rank == 0:
        log_to(run / "log.txt")
    dataset, split = opened(settings["data"], run)
    config = TrainConfig.model_validate(settings["config"])
    with Tracking(settings["track"] if group.rank == 0 else (), run, config) as tracking:
        train(
            config,
            dataset,
            split,
            group=group,
            report=partial(
                _report, run=run, tracking=tracking, pace=Pace(config.epochs), clock=Clock(run, workers=group.size)
            ),
            start=start_of(ray.train.get_checkpoint()),
            device=str(get_device()),
            sharing=Sharing.on_this_node(**settings["share"]) if settings["share"] else None,
        )


def opened(data: str, run: Path) -> tuple[Dataset, Split]:
    """Open a run's dataset and split on a worker's node; what the driver found there may not be in reach here yet."""
    with known_to_be_there():
        dataset = open_dataset(data)
        return dataset, load_split(read_json(run / SPLIT_JSON), dataset, where=run / SPLIT_JSON)


def _report(metrics: Metrics, state: State, *, run: Path, tracking: Tracking, pace: Pace, clock: Clock) -> None:
    """Report from every worker, because it is a barrier; rank 0 alone carries the state, where it is due."""
    name = checkpoint_name(state["epoch"])
    if ray.train.get_context().get_world_rank() > 0:
        ray.train.report(metrics, checkpoint_dir_name=name)
        return
    record_epoch(run, metrics)  # first: an epoch that is done again after a failure overwrites it
    clock.lap(state["epoch"])
    tracking.epoch(metrics)
    shown = metrics | {MERIT: merit(metrics)}
    if pace.due(metrics, history_of(run)):
        with tempfile.TemporaryDirectory() as folder:
            save_state(state, metrics, Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(shown, checkpoint=checkpoint, checkpoint_dir_name=name)
    else:
        ray.train.report(shown, checkpoint_dir_name=name)
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

    def follow(done: threading.Event) -> None:
        with path.open() as file:
            file.seek(0, 2)
            last = False
            while not last:
                last = done.wait(0.3)  # once more behind the end, for the last lines
                for line in file:
                    log.info("%s", line.rstrip())

    with beside(follow):
        yield

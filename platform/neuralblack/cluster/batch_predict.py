"""Classify a whole folder or table with Ray Data, shard by shard; what is done is done, whatever happens then."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.data

from neuralblack.cluster.batch_stages import CPU_BATCH, GPU_BATCH, Classifying, Reading, to_row
from neuralblack.cluster.environment import device_here, shared_dataset, shared_path
from neuralblack.cluster.others import CLASSIFIES, actor_placed, said_while_others_hold
from neuralblack.cluster.session import await_resources, ray_session, reachable_resources
from neuralblack.data.bulk import Shard, Survey, survey
from neuralblack.errors import InputError, RunError
from neuralblack.inference.engines import ENGINES
from neuralblack.inference.parts import hold_job, parts_done, summarise
from neuralblack.registry.model_folder import ModelFolder, model_path, open_model

log = logging.getLogger(__name__)

HALF = 0.5  # of a CPU for who reads and for who classifies: each of one thread, so together they fill it
RETRIES = 3  # times that an actor, and then all of them, are started again; Ray Data's default is for ever
LOST = (  # what Ray says when a process or what it held is gone
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.NodeDiedError,
)


def classify_all(
    source: str | Path,
    out: str | Path,
    *,
    model: Path,
    engine: str = "auto",
    column: str | None = None,
    workers: int | None = None,
    gpus: bool = False,
    wait_s: float = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Classify every slice of an input; return what summary.json says.

    Args:
        source: what `data.bulk.survey` takes, on every node.
        out: the results' folder, on every node. The same command again does only what is missing.
        model: a model folder or a run, on every node.
        engine: a key of ENGINES.
        column: of a table: where the files' bytes are.
        workers: models that work at once; None: one for each CPU or GPU that there is, or that the autoscaler can bring
            where it has time; 0: in this process, to debug.
        gpus: one GPU for each of them, or for this process; without, all compute on the CPU.
        wait_s: how long the autoscaler may take to bring nodes for `workers`, or a first one.
        progress: called with slices done and all slices.

    Raises:
        InputError: something that can be mended.
        RunError: a worker failed; the same command goes on.

    """
    if engine not in ENGINES:
        raise InputError("engine", found=repr(engine), expected="one of " + ", ".join(ENGINES), fix="--engine NAME")
    counts = partial(_here, device=device_here(gpus=gpus)) if workers == 0 else _on_ray
    source, out = shared_dataset(source, name="input"), shared_path(out, name="folder for results")
    folder = open_model(model_path(shared_path(model, name="model")))
    if Path(source) in (out, *out.parents):
        raise InputError(
            out, found="a folder within the input", expected="one elsewhere", fix="choose another folder for results"
        )
    what = survey(source, folder.spec, column=column)
    facts = {
        "input": {"kind": what.kind, "items": what.items, "digest": what.digest, "column": what.column},
        "model": {"name": folder.id, "hash": folder.hash},
        "preprocessing": folder.spec.version,
        "engine": engine,
    }
    with hold_job(out, facts):
        shards = what.shards()
        if what.left_out:
            log.info("leaving out %d files that are of no known kind", what.left_out)
        for losses in range(RETRIES + 1):
            if losses and workers:
                workers = min(workers, _room(gpus=gpus))
            finished = parts_done(out)
            missing = [shard for shard in shards if shard.number not in finished]
            done = what.items - sum(shard.count for shard in missing)
            log.info("%d slices, %d of them done before, in %d shards", what.items, done, len(shards))
            progress(done, what.items)
            try:
                for count in counts(
                    what, missing, folder, out, engine=engine, workers=workers, gpus=gpus, wait_s=wait_s
                ):
                    done += count
                    progress(done, what.items)
                break
            except _WorkersLostError as lost:
                if losses == RETRIES:
                    raise RunError(f"classifying stopped: {lost}; the same command goes on where it stopped") from lost
                log.warning("workers were lost, perhaps with their node; going on with what is missing")
        return summarise(out, items=what.items)


def _room(*, gpus: bool) -> int:
    """Say how many models there is room for now, at least one."""
    with ray_session():
        return max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0)))


class _WorkersLostError(Exception):
    """Processes died that Ray could not replace in time, as when a node is lost."""


def _here(
    what: Survey, missing: list[Shard], folder: ModelFolder, out: Path, *, engine: str, device: str, **_: object
) -> Iterator[int]:
    """Do it in this process, so that a debugger works; yields the size of each shard that is done."""
    import pyarrow as pa

    batch = GPU_BATCH if device == "cuda" else CPU_BATCH
    classify = Classifying(folder.path, folder.hash, out, engine=engine, batch=batch, device=device)
    read = Reading(what.root, what.kind, what.digest, folder.spec)
    try:
        for shard in missing:
            yield classify(read(pa.Table.from_pylist([to_row(shard)])))["items"][0].as_py()
    finally:
        read.close()


def _on_ray(
    what: Survey,
    missing: list[Shard],
    folder: ModelFolder,
    out: Path,
    *,
    engine: str,
    workers: int | None,
    gpus: bool,
    wait_s: float,
) -> Iterator[int]:
    """Do it with two pools of actors; yields the size of each shard that is done."""
    if not missing:
        return
    with _quiet(), ray_session():
        each: dict[str, float] = {"CPU": 1, "GPU": float(gpus)}
        await_resources(each, workers or 1, wait_s=wait_s)
        models, readers = pools(workers, gpus=gpus, shards=len(missing), nodes_may_come=wait_s > 0)
        log.info("%s models and %s readers at work", models, readers)
        shards = ray.data.from_items([to_row(shard) for shard in missing], override_num_blocks=len(missing))
        read = shards.map_batches(
            Reading,
            fn_constructor_args=(what.root, what.kind, what.digest, folder.spec),
            num_cpus=1 if gpus else HALF,
            **_pool(readers),
        )
        classified = read.map_batches(
            Classifying,
            fn_constructor_args=(folder.path, folder.hash, out),
            fn_constructor_kwargs={
                "engine": engine,
                "batch": GPU_BATCH if gpus else CPU_BATCH,
                "threads": 1,
                "device": "cuda" if gpus else "cpu",  # Ray 2.60 shows a node's GPUs to those that were given none, too
            },
            num_cpus=1 if gpus else HALF,
            num_gpus=1 if gpus else 0,
            **_pool(models),
        )
        takes: dict[str, float] = {"CPU": 1 if gpus else HALF, "GPU": float(gpus)}
        try:
            with said_while_others_hold(takes, 1, placed=partial(actor_placed, CLASSIFIES)):
                for batch in classified.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
                    yield batch["items"][0].as_py()
        except ray.exceptions.RayError as error:
            raise _cause(error) from error


@dataclass(frozen=True)
class Pool:
    """How many actors take shards: so many are asked for at once, and Ray Data may go down to `least`, up to `most`."""

    least: int
    first: int
    most: int

    def __str__(self) -> str:
        return f"{self.most}" if self.least == self.most else f"up to {self.most}"


def pools(workers: int | None, *, gpus: bool, shards: int, nodes_may_come: bool) -> tuple[Pool, Pool]:
    """Say how many models and how many readers work.

    Args:
        workers: models; None: one for each CPU or GPU, also of nodes that the autoscaler can bring where they may come.
        gpus: one for each model.
        shards: that there are to do; more than one actor for each would wait.
        nodes_may_come: whether the autoscaler has time to bring some.

    """
    have, kind = ray.cluster_resources(), "GPU" if gpus else "CPU"
    most = (reachable_resources() or have) if nodes_may_come and not workers else have
    count = min(workers or int(most[kind]), shards)
    here = min(count, int(have[kind]))  # models that have room now
    # A GPU waits for its slices, so every CPU that no model needs reads them.
    now = max(1, min(int(have["CPU"]) - here, shards)) if gpus else here
    then = max(now, min(int(most["CPU"]) - count, shards)) if gpus else count
    # All models are asked for at once: the autoscaler brings nodes for actors that have no place. Of readers only those
    # that there is room for now, or they would take it from the models.
    return Pool(1 if here < count else count, count, count), Pool(1 if now < then else now, now, then)


def _pool(pool: Pool) -> dict[str, Any]:
    """Say how actors take shards, one after the other; the next one's slices are on their way meanwhile."""
    return {
        "compute": ray.data.ActorPoolStrategy(
            min_size=pool.least, initial_size=pool.first, max_size=pool.most, max_tasks_in_flight_per_actor=2
        ),
        "batch_size": 1,
        "batch_format": "pyarrow",
        "max_restarts": RETRIES,
        "max_task_retries": RETRIES,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what Ray Data would print of itself."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error, `_cause` says
    # Read when Ray starts. Ray Data's actors have arguments in the object store, and Ray 2.60 warns of each of them on
    # stderr, as an error, that they may be lost; these here stay where they are for as long as the pipeline.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with warnings.catch_warnings():
        # Nowhere else can the number of restarts be bounded in 2.60; the warning is of 2.64.
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)
        yield


def _cause(error: BaseException) -> Exception:
    """Find what a worker said: an InputError as it is, a lost worker, anything else as a RunError of one line."""
    chain: list[BaseException] = [error]
    while (below := getattr(chain[-1], "cause", None) or chain[-1].__cause__) and below not in chain:
        chain.append(below)
    for one in chain:
        if isinstance(one, InputError):
            return one
    lines = [line.strip() for line in str(chain[-1]).splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if "Error" in line.partition(":")[0]), lines[-1] if lines else "")
    if isinstance(chain[-1], LOST) and not getattr(chain[-1], "actor_init_failed", False):
        return _WorkersLostError(said)
    return RunError(f"classifying stopped: {said}; the same command goes on where it stopped")

"""Search hyperparameters with Ray Tune and successive halving, on the validation folds only."""

import logging
import shutil
import uuid
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ray
from ray import tune

from neuralblack.cluster.environment import shared_dataset, shared_path
from neuralblack.cluster.halving import Halving, rungs_of
from neuralblack.cluster.progress import TRACK, Progress, Tracked
from neuralblack.cluster.search_state import SEARCH, StateKept, can_go_on
from neuralblack.cluster.session import await_resources, ray_session, reachable_resources
from neuralblack.cluster.space import DEFAULT_SPACE, GRID, Space, check_space, drawn, schedules_of
from neuralblack.cluster.train import START_S, on_every_node
from neuralblack.cluster.trials import PARAMS, TRIAL, table_of, trial_alone, trial_of_workers
from neuralblack.config import TrainConfig, checked
from neuralblack.data.dataset import Dataset
from neuralblack.data.splits import Split
from neuralblack.errors import InputError, RunError
from neuralblack.evaluation.finalists import intervals_of
from neuralblack.evaluation.search_report import write_search_report
from neuralblack.files import read_json, write_json
from neuralblack.inference.reference import calibrate
from neuralblack.registry.model_folder import ModelFolder
from neuralblack.registry.run_folder import history_of, hold_run, record_epoch, start_run
from neuralblack.training.checkpoints import MERIT, SCORE
from neuralblack.training.runs import check_run, earlier_model, finish_run
from neuralblack.training.tracking import Tracking, check_trackers

log = logging.getLogger(__name__)

TABLE, PAGE = "trials.json", "search.html"
FINALISTS = 3  # trials whose macro-F1 gets an interval
SEARCHES: dict[str, str] = {
    # No PBT: it copies weights between trials of different schedules, so a stage would learn in one and stay frozen in
    # the next, the cosine of the learning rate would start in its middle, and nothing could be shared any more.
    "random": "values drawn at random, and every point of a grid where the space has one",
    "optuna": "Optuna's TPE, which draws where earlier trials did well (extra `optuna`)",
}
RESTARTS = 2  # of a trial in one process that died, as with its node; it goes on behind its last epoch
DRIVER_CPU = 0.01  # of a trial that only starts workers and waits for them


def tune_on_cluster(
    config: TrainConfig,
    *,
    data: str | Path,
    run: str | Path,
    space: Space | None = None,
    trials: int = 8,
    search: str = "random",
    concurrent: int = 0,
    workers: int = 1,
    gpus: bool = False,
    wait_s: float = 0,
    time_budget_s: float = 86_400,
    share_gib: float = 16,
    track: Sequence[str] = (),
) -> tuple[ModelFolder, list[dict[str, Any]]]:
    """Search, write the table of trials, and make the best trial's best epoch the run's model folder.

    Args:
        config: what all trials share.
        data, run: folders on every node. The same command again goes on where it stopped.
        space: fields of TrainConfig to Ray Tune's domains; none given: DEFAULT_SPACE.
        trials: how many configurations are drawn; each with every point of the grid, where the space has one.
        search: a key of SEARCHES.
        concurrent: trials at a time; 0: as many as there is room for (`at_a_time`).
        workers: of one trial. 1: a plain function; more: Ray Train inside the trial.
        gpus: one GPU for each worker.
        wait_s: how long the autoscaler may take to bring nodes.
        time_budget_s: no trial goes on after it; what is there by then counts.
        share_gib: room on each node for what frozen stages say of views, which trials share; 0: each computes its own.
        track: keys of TRACKERS that show every trial, and as the search itself the chosen one.

    Returns:
        The model, and a row for each trial, best first (also in RUN/trials.json).

    Raises:
        InputError: something that can be mended, said before a trial starts where possible.
        RunError: no trial came to a result.
    """
    config, data, run = on_every_node(config), shared_dataset(data), shared_path(run, name="run")
    space = dict(DEFAULT_SPACE if space is None else space)
    check_trackers(track)
    if not config.validation_folds:
        raise InputError(
            "--set validation_folds", found="[]", expected="folds to choose trials on", fix="--set validation_folds=[N]"
        )
    dataset, split = check_run(config, data=data)
    check_space(config, space)
    points = points_of(search, space, config, trials=trials)
    asked = {"space": said_of(space), "trials": trials, "workers": workers, "by": search}
    through = earlier_model(run, config, split, search=asked)
    if through:
        return through, read_json(run / TABLE)
    with ray_session(dashboard=workers > 1):
        each: dict[str, float] = {"CPU": 1.0, "GPU": float(gpus)}  # trials side by side use CPUs better than threads
        together = {name: value * workers for name, value in each.items() if value}
        driver_cpu = DRIVER_CPU * (workers > 1)
        together["CPU"] += driver_cpu
        await_resources(each, workers, wait_s=wait_s, driver_cpu=driver_cpu)
        have, most = ray.cluster_resources(), reachable_resources()
        concurrent = at_a_time(
            concurrent,
            room=min(int((most or have).get(name, 0) / value) for name, value in together.items()),
            more_may_come=most is None and wait_s > 0,
            ahead=len(points) if points is not None and workers == 1 else 0,
        )
        with hold_run(run):
            start_run(run, config=config, split=split.manifest, search=asked)
            settings = {
                "config": config.model_dump(),
                "data": str(data),
                "run": str(run),
                "workers": workers,
                "each": each,
                "start_s": max(START_S, wait_s),
                "command": uuid.uuid4().hex,
                "share": {"gib": share_gib, "schedules": schedules_of(config, space)},
            }
            with Tracking(track, run, None) as tracking:
                write_json(run / TRACK, tracking.names)
                results = _search(
                    run,
                    settings,
                    space,
                    points,
                    first=drawn(space, config, draws=1, seed=config.seed)[0],
                    epochs=config.epochs,
                    trials=trials,
                    concurrent=concurrent,
                    seed=config.seed,
                    time_budget_s=time_budget_s,
                )
                patients = len({dataset.patients[row] for row in split.validation})
                rows, checkpoints = table_of(run, results, list(space), epochs=config.epochs, patients=patients)
                return _finish(run, config, dataset, split, rows, checkpoints, tracking), rows


def at_a_time(asked: int, *, room: int, more_may_come: bool, ahead: int) -> int:
    """Say how many trials run side by side.

    Args:
        asked: so many; 0: as many as there is room for.
        room: how many the cluster can have room for, or has where `more_may_come`.
        more_may_come: an autoscaler may bring nodes, and nobody knows how many.
        ahead: trials that may be started without room for them: they wait, and by that are asked for. 0 where one that
            is drawn early knows less (optuna), or gives up waiting (of several workers).

    """
    if more_may_come:
        at_once = asked or max(ahead, room)
        log.info("%d trials at a time; there is room for %d now, and nodes may come (--concurrent)", at_once, room)
        return at_once
    if asked > room:
        log.info("%d trials at a time instead of %d: the cluster has no room for more", room, asked)
    return min(asked or room, room)


def _finish(
    run: Path,
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    rows: list[dict[str, Any]],
    checkpoints: list[Path | None],
    tracking: Tracking,
) -> ModelFolder:
    """Write the table and the page of all trials, and make the first one's best epoch the run's model folder."""
    write_json(run / TABLE, rows)
    best = checkpoints[0] if checkpoints else None
    if best is None:
        cause = next((row["error"] for row in rows if row["error"]), "the time budget ran out")
        raise RunError(f"no trial came to a result: {cause}")
    configs = [checked(TrainConfig, config.model_dump() | row["params"], where="a trial") for row in rows]
    finalists = {
        row["trial"]: (each, checkpoint)
        for row, each, checkpoint in zip(rows[:FINALISTS], configs, checkpoints, strict=False)
        if checkpoint
    }
    write_search_report(
        run / PAGE,
        rows,
        name=run.name,
        epochs=config.epochs,
        slices=len(split.train),
        intervals=intervals_of(finalists, dataset, split),
    )
    log.info("the search's page is %s", run / PAGE)
    shutil.rmtree(run / "epochs", ignore_errors=True)  # an earlier attempt may have had another winner
    tracking.configured(configs[0])
    for metrics in rows[0]["history"]:
        record_epoch(run, metrics)
        tracking.epoch(metrics)
    history = history_of(run)
    rule = f"highest {SCORE} on the validation folds, of the trial with the lowest log loss among those as good"
    return finish_run(run, configs[0], dataset, split, best=best, history=history, calibrate=calibrate, chosen_by=rule)


def points_of(search: str, space: Space, config: TrainConfig, *, trials: int) -> list[dict[str, Any]] | None:
    """Draw all configurations beforehand, or None where each depends on how the earlier ones did.

    Raises InputError for a search that is not known, not installed, or has a grid where it can't.
    """
    if search not in SEARCHES:
        raise InputError("--search", found=search, expected="one of " + ", ".join(SEARCHES), fix="--search NAME")
    if search == "random":
        return drawn(space, config, draws=trials, seed=config.seed)
    grids = [name for name, domain in space.items() if isinstance(domain, dict)]
    if grids:
        raise InputError(
            f"search space {grids[0]}", found="a grid", expected="ranges and choices for optuna", fix="--search random"
        )
    if find_spec("optuna") is None:
        raise InputError(
            "--search optuna", found="no optuna", expected="the extra `optuna`", fix="pip install 'neuralblack[optuna]'"
        )
    return None


def optuna_search(seed: int, *, concurrent: int, first: dict[str, Any]) -> Any:
    """Make Optuna's tree-structured Parzen estimator (Bergstra et al., 2011), asked for so many trials at a time.

    `first` are the values of the first trial.
    """
    from ray.tune.search.optuna import OptunaSearch

    logging.getLogger("optuna").setLevel(logging.WARNING)
    search = OptunaSearch(
        metric=SCORE, mode="max", seed=seed, points_to_evaluate=[{f"{PARAMS}/{name}": first[name] for name in first}]
    )
    return tune.search.ConcurrencyLimiter(search, concurrent)


def said_of(space: Space) -> dict[str, str]:
    """Write a space down, for the run's facts."""
    return {
        name: f"grid {domain[GRID]}" if isinstance(domain, dict) else domain.domain_str
        for name, domain in space.items()
    }


def _search(
    run: Path,
    settings: dict[str, Any],
    space: dict[str, Any],
    points: list[dict[str, Any]] | None,
    *,
    first: dict[str, Any],
    epochs: int,
    trials: int,
    concurrent: int,
    seed: int,
    time_budget_s: float,
) -> Any:
    """Run Tune, or go on with the experiment that is there already."""
    several = settings["workers"] > 1
    function = tune.with_parameters(trial_of_workers if several else trial_alone, settings=settings)
    resources = {"CPU": DRIVER_CPU} if several else {name: value for name, value in settings["each"].items() if value}
    trainable = tune.with_resources(function, resources)
    kept = None if several else tune.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=MERIT)
    experiment = run / SEARCH
    if can_go_on(run):
        log.info("going on with the search in %s", experiment)
        tuner = tune.Tuner.restore(str(experiment), trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={PARAMS: space if points is None else tune.grid_search(points)},
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=trials if points is None else 1,
                scheduler=Halving(
                    rungs_of(settings["share"]["schedules"], epochs=epochs), epochs=epochs, trials=run / "trials"
                ),
                # TuneConfig's max_concurrent_trials has no effect on a generator that is handed in, and says nothing.
                search_alg=optuna_search(seed, concurrent=concurrent, first=first)
                if points is None
                else tune.search.BasicVariantGenerator(max_concurrent=concurrent),
                reuse_actors=not several,  # a trial then pays neither for imports nor for a process
                time_budget_s=time_budget_s,
                trial_dirname_creator=lambda trial: f"{TRIAL}{trial.trial_id}",  # the default is cut off in mid-word
            ),
            run_config=tune.RunConfig(
                name=experiment.name,
                storage_path=str(run),
                checkpoint_config=kept,
                failure_config=tune.FailureConfig(max_failures=0 if several else RESTARTS),
                verbose=0,
                callbacks=[
                    Progress(list(space), trials if points is None else len(points), trials=run / "trials"),
                    Tracked(run),  # behind what numbers the trials
                    StateKept(run),
                ],
            ),
        )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is a line of ours and a row of the table
    with (run / "log.txt").open("a") as file, redirect_stdout(file):  # Tune's own tables; ours go through logging
        return tuner.fit()

"""Search hyperparameters with Ray Tune and successive halving, on the validation folds only."""

import logging
import shutil
import uuid
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune

from neuralblack.cluster.environment import shared_dataset, shared_path
from neuralblack.cluster.halving import Halving, rungs_of
from neuralblack.cluster.others import TRAINS, TRIES, actor_placed, said_while_others_hold
from neuralblack.cluster.progress import TRACK, Progress, Tracked
from neuralblack.cluster.search_plan import DRIVER_CPU, Plan, planned
from neuralblack.cluster.search_state import SEARCH, StateKept, can_go_on
from neuralblack.cluster.session import await_resources, ray_session, reachable_resources
from neuralblack.cluster.space import DEFAULT_SPACE, Space
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
from neuralblack.registry.run_folder import check_run_folder, history_of, hold_run, record_epoch, start_run
from neuralblack.training.checkpoints import MERIT, SCORE
from neuralblack.training.runs import check_run, earlier_model, finish_run
from neuralblack.training.tracking import Tracking, check_trackers

log = logging.getLogger(__name__)

TABLE, PAGE = "trials.json", "search.html"
FINALISTS = 3  # trials whose macro-F1 gets an interval
RESTARTS = 2  # of a trial in one process that died, as with its node; it goes on behind its last epoch


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
        share_gib: room on each node for what frozen stages say of views, which trials share; 0: each computes its own.
        track: keys of TRACKERS that show every trial, and as the search itself the chosen one.

    Returns:
        The model, and a row for each trial, best first (also in RUN/trials.json).

    Raises:
        InputError: something that can be mended, said before a trial starts where possible.
        RunError: no trial came to a result, or Ctrl-C ended the search before all trials were through.
    """
    config, data, run = on_every_node(config), shared_dataset(data), shared_path(run, name="run")
    check_run_folder(run, config=config)  # before weights are downloaded
    space = dict(DEFAULT_SPACE if space is None else space)
    check_trackers(track)
    if not config.validation_folds:
        raise InputError(
            "--set validation_folds", found="[]", expected="folds to choose trials on", fix="--set validation_folds=[N]"
        )
    dataset, split = check_run(config, data=data)
    plan = planned(config, space, search=search, draws=trials, workers=workers, gpus=gpus)
    through = earlier_model(run, config, split, search=plan.facts)
    if through:
        return through, read_json(run / TABLE)
    with ray_session(dashboard=plan.of_workers), hold_run(run):  # before anybody waits for machines, or asks for them
        concurrent = _await_room(plan, concurrent=concurrent, wait_s=wait_s)
        start_run(run, config=config, split=split.manifest, search=plan.facts)
        settings = _settings(plan, data=data, run=run, wait_s=wait_s, share_gib=share_gib)
        with Tracking(track, run, None) as tracking:
            write_json(run / TRACK, tracking.names)
            results = _search(run, plan, settings, concurrent=concurrent)
            return _finish(run, plan, dataset, split, results, tracking)


def _await_room(plan: Plan, *, concurrent: int, wait_s: float) -> int:
    """Wait until there is room for a trial, and say how many run side by side."""
    await_resources(plan.each, plan.workers, wait_s=wait_s, driver_cpu=plan.driver_cpu)
    have, most = ray.cluster_resources(), reachable_resources()
    return at_a_time(
        concurrent,
        room=min(int((most or have).get(name, 0) / value) for name, value in plan.of_a_trial.items()),
        more_may_come=most is None and wait_s > 0,
        ahead=len(plan.points) if plan.points is not None and not plan.of_workers else 0,
    )


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


def _settings(plan: Plan, *, data: str, run: Path, wait_s: float, share_gib: float) -> dict[str, Any]:
    """Say what every trial is told beside its own values."""
    return {
        "config": plan.config.model_dump(),
        "data": str(data),
        "run": str(run),
        "workers": plan.workers,
        "each": plan.each,
        "start_s": max(START_S, wait_s),
        "command": uuid.uuid4().hex,
        "share": {"gib": share_gib, "schedules": plan.schedules},
    }


def _search(run: Path, plan: Plan, settings: dict[str, Any], *, concurrent: int) -> Any:
    """Run Tune, or go on with the experiment that is there already."""
    function = tune.with_parameters(trial_of_workers if plan.of_workers else trial_alone, settings=settings)
    trainable = tune.with_resources(function, {"CPU": DRIVER_CPU} if plan.of_workers else plan.of_a_trial)
    experiment = run / SEARCH
    if can_go_on(run):
        log.info("going on with the search in %s", experiment)
        tuner = tune.Tuner.restore(str(experiment), trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={PARAMS: plan.space if plan.points is None else tune.grid_search(plan.points)},
            tune_config=_how_tune_draws(run, plan, concurrent=concurrent),
            run_config=_what_tune_keeps(run, plan),
        )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is a line of ours and a row of the table
    placed = partial(actor_placed, TRAINS if plan.of_workers else TRIES)
    with (
        said_while_others_hold(plan.each, plan.workers, placed=placed),
        (run / "log.txt").open("a") as file,
        redirect_stdout(file),  # Tune's own tables; ours go through logging
    ):
        return tuner.fit()


def _how_tune_draws(run: Path, plan: Plan, *, concurrent: int) -> tune.TuneConfig:
    config, beforehand = plan.config, plan.points is not None
    return tune.TuneConfig(
        metric=SCORE,
        mode="max",
        num_samples=1 if beforehand else plan.draws,
        scheduler=Halving(rungs_of(plan.schedules, epochs=config.epochs), epochs=config.epochs, trials=run / "trials"),
        # TuneConfig's max_concurrent_trials has no effect on a generator that is handed in, and says nothing.
        search_alg=tune.search.BasicVariantGenerator(max_concurrent=concurrent)
        if beforehand
        else optuna_search(config.seed, concurrent=concurrent, first=plan.first),
        reuse_actors=not plan.of_workers,  # a trial then pays neither for imports nor for a process
        trial_dirname_creator=lambda trial: f"{TRIAL}{trial.trial_id}",  # the default is cut off in mid-word
    )


def _what_tune_keeps(run: Path, plan: Plan) -> tune.RunConfig:
    kept = None if plan.of_workers else tune.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=MERIT)
    return tune.RunConfig(
        name=SEARCH,
        storage_path=str(run),
        checkpoint_config=kept,
        failure_config=tune.FailureConfig(max_failures=0 if plan.of_workers else RESTARTS),
        verbose=0,
        callbacks=[
            Progress(list(plan.space), plan.trials, trials=run / "trials"),
            Tracked(run),  # behind what numbers the trials
            StateKept(run),
        ],
    )


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


def _finish(
    run: Path, plan: Plan, dataset: Dataset, split: Split, results: Any, tracking: Tracking
) -> tuple[ModelFolder, list[dict[str, Any]]]:
    """Write the table and the page of all trials, and make the first one's best epoch the run's model folder."""
    config, patients = plan.config, len({dataset.patients[row] for row in split.validation})
    rows, checkpoints = table_of(run, results, list(plan.space), epochs=config.epochs, patients=patients)
    through = sum(bool(row["error"]) or row["stopped"] or row["epochs"] >= config.epochs for row in rows)
    if through < plan.trials:  # Tune ends at Ctrl-C as if all were through
        raise RunError(
            f"the search was stopped: {through} of {plan.trials} trials are through; the same command goes on"
        )
    write_json(run / TABLE, rows)
    best = checkpoints[0] if checkpoints else None
    if best is None:
        raise RunError(f"no trial came to a result: {next(row['error'] for row in rows if row['error'])}")
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
    model = finish_run(run, configs[0], dataset, split, best=best, history=history, calibrate=calibrate, chosen_by=rule)
    return model, rows

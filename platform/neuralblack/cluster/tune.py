"""Search learning rates and unfreeze schedules with Ray Tune and ASHA, on the validation folds only."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from neuralblack.cluster.environment import shared_path
from neuralblack.cluster.session import await_resources, ray_session, reachable_resources
from neuralblack.cluster.train import on_every_node
from neuralblack.cluster.trials import TRIAL, last_line, number_of, table_of, trial_alone, trial_of_workers
from neuralblack.config import TrainConfig, checked, with_overrides
from neuralblack.errors import InputError, RunError
from neuralblack.files import read_json, write_json
from neuralblack.inference.reference import calibrate
from neuralblack.registry.model_folder import ModelFolder
from neuralblack.registry.run_folder import history_of, hold_run, record_epoch, start_run
from neuralblack.training.recipe import check
from neuralblack.training.runs import SCORE, check_run, earlier_model, finish_run
from neuralblack.training.unfreezing import schedule_of

log = logging.getLogger(__name__)

DEFAULT_SPACE: dict[str, Domain] = {
    "lr": tune.loguniform(3e-4, 5e-3),
    "schedule": tune.choice(["head-only", "top-down", "all"]),
}
TABLE = "trials.json"
OF_THE_SPLIT = (  # trials are compared on the same slices and epochs
    "seed",
    "epochs",
    "train_folds",
    "validation_folds",
    "test_folds",
)
DRIVER_CPU = 0.01  # of a trial that only starts workers and waits for them


def tune_on_cluster(
    config: TrainConfig,
    *,
    data: str | Path,
    run: str | Path,
    space: Mapping[str, Domain] | None = None,
    trials: int = 8,
    concurrent: int = 0,
    workers: int = 1,
    gpus: bool = False,
    wait_s: float = 0,
    time_budget_s: float = 86_400,
) -> tuple[ModelFolder, list[dict[str, Any]]]:
    """Search, write the table of trials, and make the best trial's best epoch the run's model folder.

    Args:
        config: what all trials share.
        data, run: folders on every node. The same command again goes on where it stopped.
        space: fields of TrainConfig to Ray Tune's domains; none given: DEFAULT_SPACE.
        trials: how many configurations are drawn.
        concurrent: trials at a time; 0: as many as there is room for.
        workers: of one trial. 1: a plain function; more: Ray Train inside the trial.
        gpus: one GPU for each worker.
        wait_s: how long the autoscaler may take to bring nodes.
        time_budget_s: no trial goes on after it; what is there by then counts.

    Returns:
        The model, and a row for each trial, best first (also in RUN/trials.json).

    Raises:
        InputError: something that can be mended, said before a trial starts where possible.
        RunError: no trial came to a result.
    """
    config, data, run = on_every_node(config), shared_path(data, name="dataset"), shared_path(run, name="run")
    space = dict(DEFAULT_SPACE if space is None else space)
    dataset, split = check_run(config, data=data)
    check_space(config, space)
    said = {name: domain.domain_str for name, domain in space.items()}
    search = {"space": said, "trials": trials, "workers": workers}
    through = earlier_model(run, config, split, search=search)
    if through:
        return through, read_json(run / TABLE)
    with ray_session(dashboard=workers > 1):
        each: dict[str, float] = {"CPU": 1.0, "GPU": float(gpus)}  # trials side by side use CPUs better than threads
        together = {name: value * workers for name, value in each.items() if value}
        driver_cpu = DRIVER_CPU * (workers > 1)
        together["CPU"] += driver_cpu
        await_resources(each, workers, wait_s=wait_s, driver_cpu=driver_cpu)
        room = min(int(reachable_resources().get(name, 0) / value) for name, value in together.items())
        if concurrent > room:
            log.info("%d trials at a time instead of %d: the cluster has no room for more", room, concurrent)
        with hold_run(run):
            start_run(run, config=config, split=split.manifest, search=search)
            results = _search(
                run,
                {"config": config.model_dump(), "data": str(data), "run": str(run), "workers": workers, "each": each},
                space,
                epochs=config.epochs,
                trials=trials,
                concurrent=min(concurrent or room, room),
                seed=config.seed,
                time_budget_s=time_budget_s,
            )
            rows, best = table_of(run, results, list(space), epochs=config.epochs)
            write_json(run / TABLE, rows)
            if best is None:
                cause = next((row["error"] for row in rows if row["error"]), "the time budget ran out")
                raise RunError(f"no trial came to a result: {cause}")
            chosen = checked(TrainConfig, config.model_dump() | rows[0]["params"], where="the best trial")
            for metrics in rows[0]["history"]:
                record_epoch(run, metrics)
            history = history_of(run)
            return finish_run(run, chosen, dataset, split, best=best, history=history, calibrate=calibrate), rows


def config_of(overrides: Sequence[str], space: Mapping[str, Domain]) -> TrainConfig:
    """Read what all trials share; a field that the space searches can't be set as well."""
    for text in overrides:
        name = text.partition("=")[0].strip()
        if name in space:
            raise InputError(
                f"--set {text}",
                found=f"{name}, which the search tries values of",
                expected="fields outside the search space",
                fix="leave it out, or change SPACE in jobs/tune.py",
            )
    return with_overrides(TrainConfig(), overrides)


def check_space(config: TrainConfig, space: Mapping[str, Domain]) -> None:
    """Refuse a space with an unknown field, or with a value that a run would refuse."""
    for name, domain in space.items():
        where = f"search space {name}"
        if name not in TrainConfig.model_fields:
            raise InputError(where, found="no such field", expected="fields of TrainConfig", fix="correct jobs/tune.py")
        if name in OF_THE_SPLIT:
            raise InputError(
                where, found="what all trials must share", expected="fields of one trial", fix=f"--set {name}=VALUE"
            )
        if isinstance(domain, Categorical):
            values = list(domain.categories)
        elif isinstance(domain, Float | Integer):
            values = [domain.lower, domain.upper]
        else:
            raise InputError(
                where, found=repr(domain), expected="tune.choice, tune.loguniform, …", fix="correct jobs/tune.py"
            )
        for value in values:
            schedule_of(checked(TrainConfig, config.model_dump() | {name: value}, where="search space").schedule)
    for name in {"model", "weights"} & set(space):
        for value in space[name].categories:
            check(config.model_copy(update={name: value}), classes=2)


def _search(
    run: Path,
    settings: dict[str, Any],
    space: dict[str, Domain],
    *,
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
    kept = None if several else tune.CheckpointConfig(num_to_keep=2, checkpoint_score_attribute=SCORE)
    experiment = run / "search"
    if tune.Tuner.can_restore(str(experiment)):
        log.info("going on with the search in %s", experiment)
        tuner = tune.Tuner.restore(str(experiment), trainable, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                num_samples=trials,
                scheduler=ASHAScheduler(max_t=epochs, grace_period=max(1, epochs // 2), reduction_factor=2),
                # TuneConfig's max_concurrent_trials has no effect on a generator that is handed in, and says nothing.
                search_alg=tune.search.BasicVariantGenerator(max_concurrent=concurrent, random_state=seed),
                reuse_actors=not several,  # a trial then pays neither for imports nor for a process
                time_budget_s=time_budget_s,
                trial_dirname_creator=lambda trial: f"{TRIAL}{trial.trial_id}",  # the default is cut off in mid-word
            ),
            run_config=tune.RunConfig(
                name=experiment.name,
                storage_path=str(run),
                checkpoint_config=kept,
                verbose=0,
                callbacks=[_Progress(list(space), trials)],
            ),
        )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial is a line of ours and a row of the table
    with (run / "log.txt").open("a") as file, redirect_stdout(file):  # Tune's own tables; ours go through logging
        return tuner.fit()


class _Progress(tune.Callback):  # type: ignore[misc]
    """A line for every epoch of every trial, in the driver."""

    def __init__(self, names: list[str], count: int) -> None:
        self._names, self._count = names, count

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say what is tried."""
        values = "  ".join(f"{name} {_short(trial.config[name])}" for name in self._names)
        log.info("trial %s of %d starts: %s", number_of(trial.trial_id), self._count, values)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Say how an epoch went."""
        number, epoch = number_of(trial.trial_id), result["epoch"] + 1
        numbers = (result["loss"], result["accuracy"], result[SCORE])
        log.info("trial %s epoch %d  loss %.4f  accuracy %.3f  macro-F1 %.3f", number, epoch, *numbers)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial failed, and with what."""
        log.info("trial %s failed: %s", number_of(trial.trial_id), last_line(trial.get_error()))


def _short(value: object) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)

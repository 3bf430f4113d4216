"""Cross-validation: every fold tested once with every seed, each run a task of its own on whatever the cluster has."""

import logging
from pathlib import Path
from typing import Any

import ray
import torch

from neuralblack.cluster.environment import shared_dataset, shared_path
from neuralblack.cluster.others import said_while_others_hold
from neuralblack.cluster.session import await_resources, ray_session
from neuralblack.cluster.train import on_every_node
from neuralblack.cluster.trials import last_line
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import open_dataset
from neuralblack.data.splits import folds_of
from neuralblack.errors import InputError, RunError
from neuralblack.evaluation.crossval_table import markdown, table_of
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.evaluation.metrics_file import METRICS, PREDICTIONS
from neuralblack.files import make_folder, read_json, write_bytes, write_json
from neuralblack.inference.predictor import Predictor
from neuralblack.inference.reference import borrow, calibrate
from neuralblack.registry.model_folder import open_model
from neuralblack.registry.run_folder import check_run_folder, hold_run, start_run
from neuralblack.training.runs import Calibrate, check_run, train_here

log = logging.getLogger(__name__)

LEAST_FOLDS = 3  # one to test on, one to choose on, one to learn from
RETRIES = 3  # of a run whose process died; it goes on from its checkpoint
TABLE, PAGE = "crossval.json", "crossval.md"
PLACED = ".placed"  # in the folder of all runs, since the first one of this command has begun
REFIT = "refit-"  # before a run's name: the same configuration on every fold but the tested one


def cross_validate(
    config: TrainConfig,
    *,
    data: str | Path,
    run: str | Path,
    seeds: int = 1,
    refit: bool = True,
    gpus: bool = False,
    wait_s: float = 0,
) -> dict[str, Any]:
    """Train and test folds x seeds runs, and write one table of them.

    In run (k, s) fold k is tested, fold k+1 chooses the epoch (the first behind the last), and the others are learnt
    from, with seed s. Each is an ordinary run in RUN/fold<k>-seed<s>, with its evaluation in test/. Then the same
    configuration, with nothing left to choose, is fitted again on every fold but k, in RUN/refit-fold<k>-seed<s>: its
    last epoch is tested, with the temperature of the run that held fold k+1 out.

    Args:
        config: what all runs share, but for folds and seed, which it sets itself.
        data, run: folders on every node. The same command again goes on where it stopped.
        seeds: 0, 1, ... so many.
        refit: also fit again on every fold but the tested one. Leaving it out at first and giving it later is possible.
        gpus: one GPU for each run; without, one CPU.
        wait_s: how long the autoscaler may take to bring a first node.

    Returns:
        What `crossval_table.table_of` says, and with `refit` the same of the refitted models as "refitted"; also in
        RUN/crossval.json, and for people in RUN/crossval.md.

    Raises:
        InputError: something that can be mended, said before a run starts where possible.
        RunError: a run failed; the others went on, and the same command does only what is missing.

    """
    config, data, run = on_every_node(config), shared_dataset(data), shared_path(run, name="run")
    check_run_folder(run, config=config)  # before weights are downloaded
    _refuse_its_own(config)
    plan = plan_of(config, data, seeds=seeds)
    checked = {name: check_run(each, data=data) for name, each in plan.items()}
    dataset, split = next(iter(checked.values()))
    for name, (_, other) in checked.items():
        if other.classes != split.classes:
            raise InputError(
                data,
                found=f"only {', '.join(other.classes)} in the training part of {name}",
                expected=f"{', '.join(split.classes)} in every one",
                fix="prepare it with more patients of each class",
            )
    each = {"CPU": 1.0, "GPU": float(gpus)}
    with ray_session(), hold_run(run):  # before anybody waits for machines, or asks for them
        await_resources(each, 1, wait_s=wait_s)
        start_run(run, config=config, split=split.manifest, crossval={"seeds": seeds, "runs": sorted(plan)})
        (run / PLACED).unlink(missing_ok=True)
        with said_while_others_hold(each, 1, placed=(run / PLACED).exists):
            _run_all(plan, data=data, run=run, each=each, refit=refit)
    table = table_of(_rounds(plan, run), split.classes)
    title = f"{config.model}, {len(plan)} runs on {len(dataset):,} slices"
    page = markdown(table, title=title)
    if all(each["predictions"].exists() for each in _rounds(plan, run, prefix=REFIT)):
        again = table["refitted"] = table_of(_rounds(plan, run, prefix=REFIT), split.classes)
        page += "\n" + markdown(again, title=f"Refitted on every fold but the tested one, {len(plan)} runs")
    write_json(run / TABLE, table)
    write_bytes(run / PAGE, page.encode())
    return table


def _rounds(plan: dict[str, TrainConfig], run: Path, *, prefix: str = "") -> list[dict[str, Any]]:
    return [
        {"seed": one.seed, "fold": one.test_folds[0], "predictions": run / f"{prefix}{name}" / "test" / PREDICTIONS}
        for name, one in plan.items()
    ]


def _refuse_its_own(config: TrainConfig) -> None:
    """Refuse a value for what every run gets by itself; raises InputError."""
    plain = TrainConfig()
    for name in ("seed", "train_folds", "validation_folds", "test_folds"):
        if getattr(config, name) != getattr(plain, name):
            raise InputError(
                f"--set {name}",
                found=repr(getattr(config, name)),
                expected="folds and seeds that the cross-validation gives its runs",
                fix="leave it out; --seeds says how many seeds",
            )


def plan_of(config: TrainConfig, data: str, *, seeds: int) -> dict[str, TrainConfig]:
    """Name every run and give it its folds and seed; raises InputError where there are fewer than three folds."""
    folds = sorted({int(fold) for fold in folds_of(open_dataset(data)) if fold > 0})
    if len(folds) < LEAST_FOLDS:
        raise InputError(
            data, found=f"{len(folds)} folds", expected=f"at least {LEAST_FOLDS}", fix="prepare it with more patients"
        )
    return {
        f"fold{fold}-seed{seed}": config.model_copy(
            update={
                "test_folds": (fold,),
                "validation_folds": (following,),
                "train_folds": tuple(each for each in folds if each not in (fold, following)),
                "seed": seed,
            }
        )
        for seed in range(seeds)
        for fold, following in zip(folds, [*folds[1:], folds[0]], strict=True)
    }


def _run_all(plan: dict[str, TrainConfig], *, data: str, run: Path, each: dict[str, float], refit: bool) -> None:
    """Run what is missing, as many at a time as there is room for; RunError with the first failure at the end."""
    task = ray.remote(num_cpus=each["CPU"], num_gpus=each["GPU"], max_retries=RETRIES)(_round)
    device = "cuda" if each["GPU"] else "cpu"  # Ray 2.60 shows a node's GPUs to tasks that were given none as well
    waiting = {
        task.remote(one.model_dump(), str(data), str(run), name, refit, device): name for name, one in plan.items()
    }
    failures: dict[str, str] = {}
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        name = waiting.pop(done)
        try:
            numbers = ray.get(done)
            log.info("%s: accuracy %.3f, macro-F1 %.3f", name, numbers["accuracy"], numbers["macro_f1"])
        except ray.exceptions.RayError as error:  # what a task raised is the cause of it
            cause = getattr(error, "cause", None) or error
            failures[name] = last_line(cause)
            log.warning("%s failed: %s", name, failures[name])
    if failures:
        name, said = next(iter(failures.items()))
        raise RunError(f"{len(failures)} of {len(plan)} runs failed; the first, {name}: {said}")


def _round(config: dict[str, Any], data: str, run: str, name: str, refit: bool, device: str) -> dict[str, Any]:
    """Train and test one run, and its refitted one; what is there already is not done again."""
    (Path(run) / PLACED).touch()
    torch.set_num_threads(1)
    chosen = TrainConfig.model_validate(config)
    found = _tested(chosen, Path(data), Path(run) / name, calibrate=calibrate, device=device)
    if refit:
        model = open_model(Path(run) / name / "model")
        folds = (*(chosen.train_folds or ()), *chosen.validation_folds)
        whole = chosen.model_copy(update={"train_folds": folds, "validation_folds": ()})
        folder = Path(run) / f"{REFIT}{name}"
        _tested(whole, Path(data), folder, calibrate=lambda *_: (borrow(model), {}), device=device)
    return found


def _tested(config: TrainConfig, data: Path, folder: Path, *, calibrate: Calibrate, device: str) -> dict[str, Any]:
    make_folder(folder)
    train_here(config, data=data, run=folder, calibrate=calibrate, device=device)
    predictor = Predictor.load(folder, engine="eager-fp32", device=device)
    measured = folder / "test" / METRICS
    if not measured.exists() or read_json(measured)["model"]["hash"] != predictor.hash:
        evaluate_held_out(predictor, data, folder / "test", folds=None, with_baselines=False)
    return {name: read_json(measured)[name] for name in ("accuracy", "macro_f1")}

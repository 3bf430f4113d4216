"""A run from its checks to its model folder; `train_here` does all of it in this process."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import neuralblack
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import Dataset, open_dataset
from neuralblack.data.splits import Split, make_split, start_behind
from neuralblack.errors import InputError
from neuralblack.files import new_folder
from neuralblack.models.table import network_for
from neuralblack.models.timm_networks import timm_version
from neuralblack.registry.cost import Clock
from neuralblack.registry.model_folder import ModelFolder, open_model, save_model, split_behind
from neuralblack.registry.run_folder import history_of, hold_run, record_epoch, start_run
from neuralblack.training.checkpoints import (
    SCORE,
    Pace,
    best_checkpoint,
    checkpoint_name,
    load_metrics,
    load_state,
    save_state,
    sound,
)
from neuralblack.training.loop import Metrics, State
from neuralblack.training.recipe import check, check_boxes, train
from neuralblack.training.tracking import Tracking

log = logging.getLogger(__name__)

CALIBRATING = ".calibrating."  # begins the name of a folder in a run, of a model that is not whole yet

# A finished network's numbers and tensors for calibration.json and reference.safetensors; the neighbour `inference`
# has the one that is meant (`inference.reference.calibrate`), and who stands above both hands it in.
Calibrate = Callable[[ModelFolder, Dataset, Split], tuple[dict[str, Any], dict[str, Tensor]]]


def check_run(config: TrainConfig, *, data: str | Path) -> tuple[Dataset, Split]:
    """Check everything that can be checked before a worker starts; nothing is written.

    Raises:
        InputError: no dataset, folds that don't split it, unknown names, weights that can't be had or have seen
            who shall be validated or tested on.
    """
    dataset = open_dataset(data)
    split = make_split(
        dataset,
        train=config.train_folds,
        validation=config.validation_folds,
        test=config.test_folds,
        seed=config.seed,
    )
    if config.validation_folds and not len(split.validation):
        raise InputError(
            "validation folds",
            found=f"{list(config.validation_folds)}, without a slice of the training part's classes",
            expected="slices to choose epochs and trials on",
            fix="--set validation_folds=[N], or [] to choose nothing",
        )
    check(config, classes=len(split.classes))
    check_boxes(config, dataset, split)
    before = split_behind(config)
    return dataset, start_behind(split, dataset, before, weights=config.weights) if before else split


def earlier_model(run: Path, config: TrainConfig, split: Split, **more: object) -> ModelFolder | None:
    """Look for an earlier run in this folder: its model where it is through. Another run is an InputError."""
    if not (run / "run.json").exists():
        return None
    start_run(run, config=config, split=split.manifest, **more)
    if not (run / "model").exists():
        return None
    log.info("this run is through; its model is %s", run / "model")
    return open_model(run / "model")


def finish_run(
    run: Path,
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    *,
    best: Path,
    history: list[dict[str, Any]],
    calibrate: Calibrate | None = None,
    chosen_by: str | None = None,
) -> ModelFolder:
    """Make the best checkpoint the run's model folder, calibrated on the validation part where `calibrate` is given.

    `chosen_by` is how, for its card; none given: as `checkpoints.merit` orders epochs.
    """
    held_out = len(split.validation) > 0
    by_merit = f"highest {SCORE} on the validation folds" if held_out else "end of the schedule: nothing was held out"
    metrics, state = load_metrics(best), load_state(best)
    card = {
        "model": config.model,
        "classes": list(split.classes),
        "config": config.model_dump(mode="json"),
        "network_input": network_for(config).facts,
        "validation": metrics,
        "chosen_by": chosen_by or by_merit,
        "dataset": {"hash": dataset.hash, "slices": len(dataset), "classes": list(dataset.classes)},
        **state["made"],
        "made_with": {"neuralblack": neuralblack.__version__, "torch": torch.__version__, **timm_version(config.model)},
        "notice": "Research use only; not a medical device.",
    }
    calibration: dict[str, Any] = {}
    reference: dict[str, Tensor] = {}
    if calibrate:
        for left in run.glob(f"{CALIBRATING}*"):
            shutil.rmtree(left, ignore_errors=True)  # by a kill
        with tempfile.TemporaryDirectory(dir=run, prefix=CALIBRATING) as folder:  # a model only once it is whole
            draft = save_model(
                Path(folder) / "model", state["model"], card=card, spec=dataset.spec, split=split.manifest, history=[]
            )
            calibration, reference = calibrate(draft, dataset, split)
        card["calibration"] = {name: value for name, value in calibration.items() if name not in ("gate", "drift")}
    model = save_model(
        run / "model",
        state["model"],
        card=card,
        spec=dataset.spec,
        split=split.manifest,
        history=history,
        calibration=calibration,
        reference=reference,
    )
    if held_out:
        best_epoch, score, accuracy = epoch_number(metrics), metrics[SCORE], metrics["accuracy"]
        log.info("the best epoch is %d: %s %.3f, accuracy %.3f", best_epoch, SCORE, score, accuracy)
    else:
        log.info("epoch %d, the last, is the model: nothing was held out to choose on", epoch_number(metrics))
    return model


def epoch_number(metrics: Metrics) -> int:
    """Number an epoch as people count, from 1; files and code count from 0."""
    return int(metrics["epoch"]) + 1


def epoch_line(metrics: Metrics) -> str:
    """Say an epoch in one line."""
    train = f"train loss {metrics['train_loss']:.4f} accuracy {metrics['train_accuracy']:.3f}"
    if SCORE not in metrics:
        return f"epoch {epoch_number(metrics):3d}  {train}  no validation"
    validation = f"validation loss {metrics['loss']:.4f} accuracy {metrics['accuracy']:.3f}"
    return f"epoch {epoch_number(metrics):3d}  {train}  {validation} macro-F1 {metrics['macro_f1']:.3f}"


def train_here(
    config: TrainConfig,
    *,
    data: str | Path,
    run: Path,
    calibrate: Calibrate | None = None,
    track: Sequence[str] = (),
    device: str | None = None,
    checked: tuple[Dataset, Split] | None = None,
) -> ModelFolder:
    """Train in this process, without Ray; the same command goes on behind the newest checkpoint.

    `device` is cpu or cuda; none given: a GPU where there is one. `checked` is what `check_run` said of this run to who
    asked it already.
    """
    dataset, split = checked or check_run(config, data=data)
    through = earlier_model(run, config, split, in_process=True)
    if through:
        return through
    folder = run / "checkpoints"

    def report(metrics: Metrics, state: State) -> None:
        record_epoch(run, metrics)  # first: an epoch that is done again after a failure overwrites it
        clock.lap(state["epoch"])
        tracking.epoch(metrics)
        log.info("%s", epoch_line(metrics))
        if not pace.due(metrics, history_of(run)):
            return
        with new_folder(folder / checkpoint_name(state["epoch"])) as place:
            save_state(state, metrics, place)
        kept = sorted(folder.glob("epoch_*"))
        for old in set(kept) - {best_checkpoint(kept), kept[-1]}:
            shutil.rmtree(old)

    with hold_run(run):
        start_run(run, config=config, split=split.manifest, in_process=True)
        pace, clock = Pace(config.epochs), Clock(run)
        whole = sound(sorted(folder.glob("epoch_*")))
        for path in set(folder.glob("epoch_*")) - set(whole):
            shutil.rmtree(path)  # half deleted by a kill, or damaged: it must neither be the best nor the newest
        with Tracking(track, run, config) as tracking:
            start = load_state(whole[-1]) if whole else None
            train(config, dataset, split, report=report, start=start, device=device)
        best = best_checkpoint(sound(sorted(folder.glob("epoch_*"))))
        history = history_of(run)
        return finish_run(run, config, dataset, split, best=best, history=history, calibrate=calibrate)

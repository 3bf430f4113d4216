"""One trial of a search, in one process or over several workers, and the table of what came out of all."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from neuralblack.cluster.train import fit_workers, registered_checkpoints, start_of
from neuralblack.config import TrainConfig
from neuralblack.data.dataset import open_dataset
from neuralblack.data.splits import load_split
from neuralblack.files import read_json
from neuralblack.registry.run_folder import history_of, record_epoch, start_run
from neuralblack.training.checkpoints import load_metrics, save_state
from neuralblack.training.loop import Metrics, State
from neuralblack.training.recipe import train
from neuralblack.training.runs import SCORE, best_checkpoint

TRIAL = "trial_"  # and its id: the name of its folder in Tune's experiment


def trial_alone(params: dict[str, Any], settings: dict[str, Any]) -> None:
    """One trial in one process; its epochs go into a folder of its own."""
    run = _folder_of_this_trial(settings)
    torch.set_num_threads(max(1, int(settings["each"]["CPU"])))
    dataset = open_dataset(Path(settings["data"]))
    split = load_split(read_json(Path(settings["run"]) / "split.json"), dataset)

    def report(metrics: Metrics, state: State) -> None:
        record_epoch(run, metrics)
        with tempfile.TemporaryDirectory() as folder:
            save_state(state, metrics, Path(folder))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))

    config = TrainConfig.model_validate(settings["config"] | params)
    device = "cuda" if settings["each"]["GPU"] else "cpu"
    train(config, dataset, split, report=report, start=start_of(tune.get_checkpoint()), device=device)


def trial_of_workers(params: dict[str, Any], settings: dict[str, Any]) -> None:
    """One trial over several workers: Ray Train inside, with a run folder of its own."""
    run = _folder_of_this_trial(settings)
    config = TrainConfig.model_validate(settings["config"] | params)
    start_run(run, config=config, split=read_json(Path(settings["run"]) / "split.json"))
    fit_workers(
        config,
        data=Path(settings["data"]),
        run=run,
        workers=settings["workers"],
        each=settings["each"],
        max_failures=1,
        callbacks=[TuneReportCallback()],
    )


def _folder_of_this_trial(settings: dict[str, Any]) -> Path:
    folder = Path(settings["run"]) / "trials" / str(tune.get_context().get_trial_id())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def table_of(run: Path, results: Any, names: list[str], *, epochs: int) -> tuple[list[dict[str, Any]], Path | None]:
    """Make the rows, best first, and find the best trial's best checkpoint.

    A row is `stopped` where Tune heard of fewer epochs than `epochs`: the scheduler gave it up, or the time was over.
    """
    found: list[tuple[dict[str, Any], Path | None]] = []
    for result in results:
        trial_id = Path(result.path).name.removeprefix(TRIAL)
        inner = run / "trials" / trial_id
        checkpoints = registered_checkpoints(inner / "checkpoints")  # of Ray Train, or Tune's own
        checkpoints = checkpoints or [Path(kept.path) for kept, _ in result.best_checkpoints]
        folder = best_checkpoint(checkpoints) if checkpoints else None
        best = load_metrics(folder) if folder else {}
        history = history_of(inner)
        row = {
            "trial": number_of(trial_id),
            "params": {name: result.config[name] for name in names},
            "epochs": len(history),
            "stopped": not result.error and (result.metrics or {}).get("epoch", -1) + 1 < epochs,
            **{name: best.get(name) for name in ("epoch", SCORE, "accuracy", "loss")},
            "error": last_line(result.error) if result.error else None,
            "history": history,
        }
        found.append((row, folder))
    found.sort(key=lambda pair: (pair[1] is None, -(pair[0][SCORE] or 0), pair[0]["loss"] or 0))
    return [row for row, _ in found], found[0][1] if found else None


def number_of(trial_id: str) -> int:
    """Number a trial from 1, the same after a search was gone on with.

    >>> number_of("587ff_00003")
    4
    """
    return int(trial_id.rpartition("_")[2]) + 1


def last_line(error: object) -> str:
    """Say what happened; the traceback stands before it."""
    return (str(error).strip().splitlines() or ["no reason given"])[-1]

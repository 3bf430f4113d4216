"""One trial of a search, in one process or over several workers, and the table of what came out of all."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from neuralblack.cluster.halving import STOPPED
from neuralblack.cluster.resume import clean_up, registered_checkpoints, start_of
from neuralblack.cluster.train import fit_workers, log_to, opened
from neuralblack.config import TrainConfig
from neuralblack.data.splits import SPLIT_JSON
from neuralblack.errors import InputError, RunError, is_final
from neuralblack.files import read_json, write_json
from neuralblack.registry.cost import Clock
from neuralblack.registry.run_folder import history_of, record_epoch, start_run
from neuralblack.training.checkpoints import MERIT, SCORE, Pace, best_checkpoint, load_metrics, merit, save_state, sound
from neuralblack.training.feature_cache import Sharing
from neuralblack.training.loop import Metrics, State
from neuralblack.training.recipe import train

PARAMS = "params"  # in a trial's configuration, as Tune hands it over: the fields that are searched
TRIAL_JSON = "trial.json"  # in a trial's folder: its number and its params, written by the driver at its first start
FAILED = "failed.json"  # beside it: with what it failed, and in which command
TRIAL = "trial_"  # and its id: the name of its folder in Tune's experiment


def trial_alone(given: dict[str, Any], settings: dict[str, Any]) -> None:
    """One trial in one process; its epochs go into a folder of its own."""
    run = _folder_of_this_trial(settings)
    with failing_once(run / FAILED, command=settings["command"]):
        _train_alone(run, given, settings)


@contextmanager
def failing_once(note: Path, *, command: str) -> Iterator[None]:
    """Fail at once where the same command failed in here before: Tune tries a trial again, whatever it failed with.

    A killed process leaves no note, and neither does what may pass: a full disk, a server that does not answer. Another
    command tries again.
    """
    if note.exists() and read_json(note)["command"] == command:
        raise RunError(read_json(note)["error"])
    try:
        yield
    except Exception as error:
        if is_final(error):
            write_json(note, {"command": command, "error": str(error)})
        raise


def _train_alone(run: Path, given: dict[str, Any], settings: dict[str, Any]) -> None:
    log_to(Path(settings["run"]) / "log.txt")  # where it says why nothing is shared, if so
    torch.set_num_threads(max(1, int(settings["each"]["CPU"])))
    dataset, split = opened(settings["data"], Path(settings["run"]))

    def report(metrics: Metrics, state: State) -> None:
        record_epoch(run, metrics)
        clock.lap(state["epoch"])
        said = metrics | {MERIT: merit(metrics)}
        if not pace.due(metrics, history_of(run)):
            tune.report(said)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_state(state, metrics, Path(folder))
            tune.report(said, checkpoint=tune.Checkpoint.from_directory(folder))

    config = TrainConfig.model_validate(settings["config"] | given[PARAMS])
    pace, clock = Pace(config.epochs), Clock(run)
    train(
        config,
        dataset,
        split,
        report=report,
        start=start_of(tune.get_checkpoint()),
        device="cuda" if settings["each"]["GPU"] else "cpu",
        sharing=Sharing.on_this_node(**settings["share"]),
    )


def trial_of_workers(given: dict[str, Any], settings: dict[str, Any]) -> None:
    """One trial over several workers: Ray Train inside, with a run folder of its own."""
    run = _folder_of_this_trial(settings)
    config = TrainConfig.model_validate(settings["config"] | given[PARAMS])
    start_run(run, config=config, split=read_json(Path(settings["run"]) / SPLIT_JSON))
    log_to(Path(settings["run"]) / "log.txt")
    clean_up(run / "checkpoints")
    fit_workers(
        config,
        data=settings["data"],
        run=run,
        workers=settings["workers"],
        each=settings["each"],
        max_failures=1,
        start_s=settings["start_s"],
        callbacks=[TuneReportCallback()],
        share=settings["share"],
    )


def _folder_of_this_trial(settings: dict[str, Any]) -> Path:
    folder = Path(settings["run"]) / "trials" / str(tune.get_context().get_trial_id())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def table_of(
    run: Path, results: Any, names: list[str], *, epochs: int, patients: int
) -> tuple[list[dict[str, Any]], list[Path | None]]:
    """Make the rows, best first, and find each trial's best checkpoint, in the order of the rows.

    The first is the least surprised of those that are as good as the best: of the trials whose macro-F1 is within a
    standard error of the highest, the one of the lowest log loss (`as_good`). The others follow by macro-F1.

    Args:
        run: the search's folder.
        results: Tune's.
        names: fields that were searched.
        epochs: of a whole trial. A row is `stopped` where the scheduler gave it up before, with the reason in `stop`.
            One none of whose checkpoints is whole has no result, and says so.
        patients: of the validation part.

    """
    found: list[tuple[dict[str, Any], Path | None]] = []
    for result in results:
        trial_id = Path(result.path).name.removeprefix(TRIAL)
        inner = run / "trials" / trial_id
        if not (inner / TRIAL_JSON).exists():
            if result.error:
                raise RunError(f"a trial did not start: {last_line(result.error)}")
            continue  # the search was stopped before
        what = read_json(inner / TRIAL_JSON)
        checkpoints = registered_checkpoints(inner / "checkpoints")  # of Ray Train, or Tune's own
        checkpoints = checkpoints or [Path(kept.path) for kept, _ in result.best_checkpoints]
        error = last_line(result.error) if result.error else None
        try:
            folder = best_checkpoint(sound(checkpoints)) if checkpoints else None
        except InputError as damaged:  # none is whole: the other trials count
            folder, error = None, error or str(damaged)
        best = load_metrics(folder) if folder else {}
        history = history_of(inner)
        # Of a trial of workers that is gone on with, Tune hears only what is new; here, a file may not be seen yet.
        trained = max(len(history), (result.metrics or {}).get("epoch", -1) + 1)
        stop = read_json(inner / STOPPED) if trained < epochs and (inner / STOPPED).exists() else None
        row = {
            "trial": what["number"],
            "params": {name: what["params"][name] for name in names},
            "epochs": trained,
            "stopped": bool(stop) and not result.error,
            "stop": stop,
            **{name: best.get(name) for name in ("epoch", SCORE, "accuracy", "loss", "ece")},
            "error": error,
            "history": history,
        }
        found.append((row, folder))
    highest = max((row[SCORE] or 0.0 for row, _ in found), default=0.0)
    least = highest - standard_error(highest, patients)
    for row, folder in found:
        row["as_good"] = folder is not None and row[SCORE] >= least
    first = min((row["loss"] for row, _ in found if row["as_good"]), default=None)

    def rank(pair: tuple[dict[str, Any], Path | None]) -> tuple[bool, bool, float, float]:
        row, folder = pair
        chosen = row["as_good"] and row["loss"] == first
        return not chosen, folder is None, -(row[SCORE] or 0), row["loss"] or 0

    found.sort(key=rank)
    return [row for row, _ in found], [folder for _, folder in found]


def standard_error(share: float, count: int) -> float:
    """Estimate the standard error of a share that was counted over `count` independent patients.

    >>> round(standard_error(0.9, 100), 3)
    0.03
    """
    return math.sqrt(share * (1 - share) / max(1, count))


def last_line(error: object) -> str:
    """Say what happened; the traceback stands before it."""
    return (str(error).strip().splitlines() or ["no reason given"])[-1]

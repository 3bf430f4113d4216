"""Train the champion on, with slices that readers have said something about, and let the gate decide.

neuralblack feedback feedback data/slices --out data/with-feedback
neuralblack retrain data/with-feedback runs/second --report reports/second --registry registry
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralblack.cluster.environment import refuse_relative, shared_dataset, shared_path
from neuralblack.cluster.train import train_on_cluster
from neuralblack.config import TrainConfig, with_overrides
from neuralblack.data.dataset import Dataset
from neuralblack.data.splits import Split
from neuralblack.errors import InputError
from neuralblack.evaluation.evaluate import check_out
from neuralblack.evaluation.held_out import evaluate_held_out
from neuralblack.inference.predictor import Predictor
from neuralblack.registry.aliases import CHAMPION, resolve
from neuralblack.registry.model_folder import WEIGHTS, ModelFolder
from neuralblack.training.runs import check_run


def retrain(
    *,
    data: str | Path,
    run: str | Path,
    registry: Path,
    report: Path,
    overrides: Sequence[str] = (),
    workers: int = 1,
    gpus: bool = False,
    wait_s: float = 0,
) -> tuple[ModelFolder, dict[str, Any]]:
    """Go on from the champion's weights with its own recipe, and evaluate what comes out on its test folds.

    Nothing is promoted: that is for `evaluation.challenge`, with what is written to `report`.

    Args:
        data: the champion's dataset, or one whose judged parts are the same, such as `join_feedback` writes.
        run: the new run's folder; the same command again goes on, while the champion is the same.
        registry: where the champion is.
        report: a new folder for the evaluation.
        overrides: FIELD=VALUE of the champion's TrainConfig.
        workers, gpus, wait_s: as in `train_on_cluster`.

    Returns:
        The new model, and its evaluation's metrics.

    Raises:
        InputError: no champion; other classes than its own; a patient that the champion learnt from would be tested
            or validated on, or one it was chosen by tested on; or other slices than the champion's would be, in a
            dataset that is neither its own nor joined to that.
        RunError: as in `train_on_cluster`.
    """
    data, registry = shared_dataset(data), shared_path(registry, name="registry")
    refuse_relative(report, name="report")
    check_out(report)  # before hours of training
    champion = resolve(registry, CHAMPION)
    config = recipe_of(champion, overrides)
    dataset, split = check_run(config, data=data)
    if split.classes != champion.classes:
        raise InputError(
            data,
            found=f"the classes {', '.join(split.classes)}",
            expected=f"those of the champion, {', '.join(champion.classes)}",
            fix="train a model of these classes anew: neuralblack train",
        )
    _check_parts(champion, dataset, split)
    model = train_on_cluster(
        config, data=data, run=run, workers=workers, gpus=gpus, wait_s=wait_s, checked=(dataset, split)
    )
    return model, evaluate_held_out(Predictor(model), data, report)


def _check_parts(champion: ModelFolder, dataset: Dataset, split: Split) -> None:
    """Refuse slices to be judged whose names cannot be relied on.

    In a dataset that was prepared anew with more scans, a group of near-duplicates, or patients who are one now, may
    have another name and fold: then no name is shared, and slices that the champion learnt from are tested on.
    """
    base = champion.split["dataset"]
    if base in (dataset.hash, dataset.manifest.get("feedback", {}).get("to")):
        return
    for part in ("validation", "test"):
        learnt, now = (each["parts"][part] for each in (champion.split, split.manifest))
        if (learnt["patients"], learnt["slices"]) != (now["patients"], now["slices"]):
            raise InputError(
                dataset.path,
                found=f"{now['slices']} slices in its {part} part, which are not the champion's {learnt['slices']}",
                expected=f"dataset {base[:12]}, or feedback joined to it: elsewhere names may have changed",
                fix="join feedback to the champion's dataset, or train on this one anew: neuralblack train",
            )


def recipe_of(champion: ModelFolder, overrides: Sequence[str]) -> TrainConfig:
    """Take the champion's recipe, starting at its weights."""
    started = champion.config.model_copy(update={"weights": str(champion.path / WEIGHTS)})
    return with_overrides(started, overrides)

"""Train the champion on, with slices that readers have said something about, and let the gate decide.

neuralblack feedback feedback data/slices --out data/with-feedback
neuralblack retrain data/with-feedback runs/second --report reports/second --registry registry
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neuralblack.cluster.environment import shared_dataset, shared_path
from neuralblack.cluster.train import train_on_cluster
from neuralblack.config import TrainConfig, with_overrides
from neuralblack.data.splits import refuse_overlap
from neuralblack.errors import InputError
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
        data: a dataset with the same folds as the champion's, such as `join_feedback` writes.
        run: the new run's folder; the same command again goes on, while the champion is the same.
        registry: where the champion is.
        report: a new folder for the evaluation.
        overrides: FIELD=VALUE of the champion's TrainConfig.
        workers, gpus, wait_s: as in `train_on_cluster`.

    Returns:
        The new model, and its evaluation's metrics.

    Raises:
        InputError: no champion; other classes than its own; or a patient that the champion learnt from would be tested
            or validated on, or one it was chosen by tested on.
        RunError: as in `train_on_cluster`.
    """
    data, registry = shared_dataset(data), shared_path(registry, name="registry")
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
    refuse_overlap(champion.split, dataset, split.validation, of=["train"])
    refuse_overlap(champion.split, dataset, split.test)
    model = train_on_cluster(config, data=data, run=run, workers=workers, gpus=gpus, wait_s=wait_s)
    return model, evaluate_held_out(Predictor(model), data, report)


def recipe_of(champion: ModelFolder, overrides: Sequence[str]) -> TrainConfig:
    """Take the champion's recipe, starting at its weights."""
    started = champion.config.model_copy(update={"weights": str(champion.path / WEIGHTS)})
    return with_overrides(started, overrides)

"""How certain the best trials of a search are of their place."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuralblack.config import TrainConfig
from neuralblack.data.crops import as_shown
from neuralblack.data.dataset import Dataset, class_numbers, sample_of
from neuralblack.data.splits import Split
from neuralblack.evaluation.bootstrap import intervals
from neuralblack.evaluation.patients import Slices
from neuralblack.models.execution import choose_execution, exact_convolutions
from neuralblack.models.table import build_model, network_for
from neuralblack.training.checkpoints import load_state
from neuralblack.training.pixels import Pixels
from neuralblack.training.recipe import classify

Finalists = Mapping[int, tuple[TrainConfig, Path]]  # a trial's number -> what it was, and its best checkpoint


def intervals_of(finalists: Finalists, dataset: Dataset, split: Split) -> dict[int, list[float] | None]:
    """Bound each trial's macro-F1 on the validation part, or a sample of it; see `bootstrap.intervals`.

    By trial number; None where nothing can be said.
    """
    rows = sample_of(split.validation, dataset)
    labels = class_numbers(dataset, rows, split.classes)
    patients = [dataset.patients[row] for row in rows]
    found = {}
    for number, (config, checkpoint) in finalists.items():
        shares = _probabilities(config, load_state(checkpoint)["model"], dataset, rows, classes=len(split.classes))
        slices = Slices(labels, shares, patients)
        found[number] = intervals(slices, classes=split.classes)["macro_f1"]
    return found


def _probabilities(
    config: TrainConfig, state: dict[str, Any], dataset: Dataset, rows: NDArray[np.int64], *, classes: int
) -> NDArray[np.float64]:
    execution, network = choose_execution(precision=config.precision), network_for(config)
    model = build_model(config.model, classes=classes)
    model.load_state_dict(state)
    with exact_convolutions():
        shares = classify(
            model.eval().to(execution.device),
            Pixels(as_shown(dataset, config.input).images, execution),
            torch.as_tensor(rows),
            network=network,
            execution=execution,
            loss=config.loss,
        )
    probabilities: NDArray[np.float64] = shares.double().cpu().numpy()
    return probabilities

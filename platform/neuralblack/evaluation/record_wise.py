"""The same recipe trained record by record, for the leak ledger: what this model would be said to reach elsewhere."""

import logging
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neuralblack.config import TrainConfig
from neuralblack.data.crops import as_shown
from neuralblack.data.dataset import Dataset
from neuralblack.data.splits import Split
from neuralblack.evaluation.leakage import Retrain
from neuralblack.models.execution import choose_execution, exact_convolutions
from neuralblack.models.table import build_model, network_for
from neuralblack.training.checkpoints import merit
from neuralblack.training.loop import Metrics, State
from neuralblack.training.pixels import Pixels
from neuralblack.training.recipe import classify, train

log = logging.getLogger(__name__)


def retrain_with(config: TrainConfig, dataset: Dataset, classes: tuple[str, ...]) -> Retrain:
    """Make what trains `config` in this process on any rows, keeps the best epoch in memory and classifies others."""

    def retrain(
        learnt: NDArray[np.int64], validation: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> NDArray[np.floating]:
        best: dict[str, Any] = {"merit": -1.0}

        def keep_best(metrics: Metrics, state: State) -> None:
            log.info("record-wise, epoch %d of %d", state["epoch"] + 1, config.epochs)
            if merit(metrics) > best["merit"]:
                best.update({"merit": merit(metrics), "model": deepcopy(state["model"])})

        split = Split(learnt, validation, asked, classes, manifest={})
        train(config, dataset, split, report=keep_best)
        execution = choose_execution(None, precision=config.precision)
        stages = build_model(config.model, classes=len(classes), weights="none")
        stages.load_state_dict(best["model"])
        pixels = Pixels(as_shown(dataset, config.input).images, execution)
        with exact_convolutions():
            shares = classify(
                stages.eval().to(execution.device),
                pixels,
                torch.as_tensor(asked),
                network=network_for(config),
                execution=execution,
                loss=config.loss,
            )
        return shares.float().cpu().numpy()

    return retrain

"""From a config, a dataset and a split to a call of `fit`: the same for one process, Ray Train and Ray Tune."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from neuralblack import metrics as measure
from neuralblack.config import TrainConfig
from neuralblack.data.crops import NEED_BOX, WHOLE, as_shown
from neuralblack.data.dataset import Dataset, class_numbers
from neuralblack.data.splits import Split
from neuralblack.errors import InputError, RunError
from neuralblack.models.compiler import need_compiler
from neuralblack.models.execution import Execution, choose_execution, repeatable_convolutions
from neuralblack.models.heads import loss_of, probabilities, scores
from neuralblack.models.inputs import to_input
from neuralblack.models.network import Network
from neuralblack.models.table import build_model, network_for
from neuralblack.training.batches import AHEAD, Batches, part_of
from neuralblack.training.feature_cache import SLICES, FeatureCache, Sharing
from neuralblack.training.frozen import FrozenStages, code_hash
from neuralblack.training.group import OneProcess
from neuralblack.training.guidance import line_of
from neuralblack.training.loop import Metrics, Report, State, Validate, fit
from neuralblack.training.pixels import Pixels
from neuralblack.training.unfreezing import schedule_of

log = logging.getLogger(__name__)

ASKED = 32  # slices, where none are to be validated on, whether the network still answers with numbers


def check(config: TrainConfig, *, classes: int) -> None:
    """Refuse what can be known to fail before anything starts: unknown names, weights that are not there."""
    schedule_of(config.schedule)
    loss_of(config.loss)
    network_for(config)
    model = build_model(config.model, classes=classes, weights=config.weights)
    if config.guidance and line_of(model) is None:
        raise InputError(
            "guidance",
            found=f"{config.model}, whose head is not a mean of the last maps and a linear layer",
            expected="a network with class activation maps",
            fix="--set guidance=0, or another --set model=NAME",
        )
    if config.guidance and config.input != WHOLE:
        raise InputError(
            "guidance", found=f"input {config.input}", expected="whole slices, where boxes are", fix="--set guidance=0"
        )


def check_boxes(config: TrainConfig, dataset: Dataset, split: Split) -> None:
    """Refuse what needs boxes of tumours where they are not: guidance of all slices, an input of any of them."""
    if config.input in NEED_BOX:
        missing = int((dataset.boxes[np.concatenate([split.train, split.validation, split.test]), 0] < 0).sum())
        if missing:
            raise InputError(
                f"input {config.input}",
                found=f"{missing} slices without the box of a tumour",
                expected="an outlined tumour on each, as in figshare's .mat files",
                fix="prepare a source of outlined tumours alone, or --set input=slice",
            )
    rows = split.train
    if config.guidance and not (dataset.boxes[rows, 0] >= 0).any():
        raise InputError(
            "guidance",
            found=f"{len(rows)} slices to learn from, none with the box of a tumour",
            expected="tumours that somebody has outlined, as in figshare's .mat files",
            fix="--set guidance=0, or prepare a source that has outlines",
        )


def train(
    config: TrainConfig,
    dataset: Dataset,
    split: Split,
    *,
    report: Report,
    group: OneProcess | None = None,
    start: State | None = None,
    device: str | None = None,
    sharing: Sharing | None = None,
) -> None:
    """Train one model of the classes in the split's training part.

    Args:
        config: the run's numbers.
        dataset, split: the slices and which of them are for learning and for choosing.
        report: takes every epoch's metrics and the state to go on from.
        group: this process's place among the workers; none given: alone.
        start: a state that `report` was given.
        device: none given: a GPU where there is one.
        sharing: where trials of a search share what frozen stages say; none given: each computes its own.

    """
    group = group or OneProcess()
    execution = choose_execution(device, precision=config.precision)
    log.info("device and number format: %s", execution.reason)
    if config.compile:
        need_compiler("--set compile=true", instead="--set compile=false")
    check_boxes(config, dataset, split)  # a search tries values that the run itself does not have
    network = network_for(config)
    if network.size > dataset.spec.size:
        log.warning("slices of %d pixels a side are enlarged to %d: no more to see", dataset.spec.size, network.size)
    model = build_model(
        config.model,
        classes=len(split.classes),
        weights=config.weights,
        seed=config.seed,
        say=start is None,  # else they are overwritten
    ).to(execution.device)
    pixels = Pixels(as_shown(dataset, config.input).images, execution)
    part = part_of(config.batch_size, len(split.train), group.size)
    behind = FrozenStages(execution, size=part)
    if sharing:
        behind = FeatureCache(
            sharing,
            facts=facts_of(config, dataset),
            stages=len(model),
            slices=len(dataset),
            count=max(len(split.train), len(split.validation)),
            execution=execution,
            size=part,
            worker=group.rank,
        )
    batches = Batches(
        pixels,
        len(dataset),
        class_numbers(dataset, split.train, split.classes),
        split.train,
        config=config,
        network=network,
        execution=execution,
        rank=group.rank,
        size=group.size,
        behind=behind,
        boxes=dataset.boxes / dataset.spec.size if config.guidance else None,
    )
    try:
        with repeatable_convolutions():
            fit(
                model,
                batches,
                config,
                execution=execution,
                batch_norm=batch_norm_of(config),
                validate=validation(
                    pixels, dataset, split, network=network, loss=config.loss, behind=behind, group=group
                ),
                report=report,
                group=group,
                start=start,
            )
    finally:
        behind.close()


def facts_of(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """List what views and their way through frozen stages depend on, but for weights and machine."""
    return {
        "dataset": dataset.hash,
        "preprocessing": dataset.spec.digest,
        "model": config.model,
        "input": config.input,
        "size": config.size,
        "seed": config.seed,
        "augmentation": config.views.model_dump(),
        "code": code_hash(),
    }


@torch.no_grad()
def classify(
    stages: nn.Sequential,
    pixels: Pixels,
    rows: Tensor,
    *,
    network: Network,
    execution: Execution,
    loss: str,
    frozen: nn.Sequential | None = None,
    behind: FrozenStages | None = None,
    batch: int = 64,
) -> Tensor:
    """Classify slices without augmentation: rows (R,) of a dataset's pixels -> (R, K) probabilities.

    Args:
        stages: of the network, in eval mode, on the device; all of them, or those behind `frozen`.
        pixels, rows: which slices.
        network, execution: input size and device.
        loss: that it was trained with, which says what its outputs mean.
        frozen, behind: stages before, and who runs them; none given: there are none.
        batch: slices at a time.

    """

    def slices(rows: Tensor) -> Tensor:
        return to_input(pixels(rows), network)

    found, order = [], pixels.by_shard(rows)
    rows = rows[order]
    for number, part in enumerate(rows.split(batch)):
        if number % AHEAD == 0:
            pixels.ahead(rows[number * batch : (number + 2 * AHEAD) * batch])
        inputs = slices(part) if frozen is None or behind is None else behind(frozen, part, SLICES, slices)
        with execution.autocast():
            found.append(probabilities(scores(stages(inputs), loss=loss)))
    whole = torch.cat(found)
    return torch.empty_like(whole).index_copy_(0, order.to(whole.device), whole)


def batch_norm_of(config: TrainConfig) -> str:
    """Resolve `auto`: pretrained statistics are kept (94.5% against 91.7% on fold 4, FACTS), random ones learnt."""
    if config.batch_norm == "auto":
        return "local" if config.weights == "none" else "eval"
    return config.batch_norm


def validation(
    pixels: Pixels,
    dataset: Dataset,
    split: Split,
    *,
    network: Network,
    loss: str,
    behind: FrozenStages,
    group: OneProcess,
) -> Validate:
    """Make the function that measures a model on the validation part, each slice exactly once over all workers.

    Of an empty part it says nothing. It raises RunError where the answers are no numbers, to some slices that were
    learnt where the part is empty: nobody has seen the loss behind an epoch's last step.
    """
    execution = behind.execution
    rows = split.validation if len(split.validation) else split.train[:ASKED]
    labels = class_numbers(dataset, rows, split.classes)

    def validate(frozen: nn.Sequential, learning: nn.Sequential) -> Metrics:
        # Every rank fills in its own rows of a table of zeros; their sum is the whole table, without padding.
        table = torch.zeros(len(rows), len(split.classes), device=execution.device)
        mine = slice(group.rank, None, group.size)
        if len(rows[mine]):
            table[mine] = classify(
                learning,
                pixels,
                torch.as_tensor(rows[mine]),
                network=network,
                execution=execution,
                loss=loss,
                frozen=frozen,
                behind=behind,
            )
        answers = group.sum(table).cpu().numpy()
        if not np.isfinite(answers).all():
            raise RunError("behind the epoch's last step the answers are no numbers; a lower learning rate may help")
        if not len(split.validation):
            return {}
        summary: dict[str, Any] = measure.summarise(labels, answers, split.classes)
        return {"loss": summary["log_loss"], **{name: summary[name] for name in ("accuracy", "macro_f1", "ece")}}

    return validate

"""The training loop: plain PyTorch, in this process or in each of many workers."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from neuralblack.config import TrainConfig
from neuralblack.errors import RunError
from neuralblack.models.execution import Execution
from neuralblack.models.heads import losses as losses_of
from neuralblack.training.batches import Batch
from neuralblack.training.group import OneProcess
from neuralblack.training.unfreezing import depth_at, schedule_of, set_learning, stage_groups

log = logging.getLogger(__name__)

Metrics = dict[str, float]
State = dict[str, Any]  # {"epoch": int, "model": state dict, "optimizer": state dict, "made": how, for the card}
Report = Callable[[Metrics, State], None]
Validate = Callable[[nn.Sequential], Metrics]


class EpochBatches(Protocol):
    """epoch -> this rank's part of every global batch; its length is the steps of an epoch."""

    def __len__(self) -> int: ...
    def __call__(self, epoch: int) -> Iterator[Batch]: ...  # noqa: D102


def fit(
    model: nn.Sequential,
    batches: EpochBatches,
    config: TrainConfig,
    *,
    execution: Execution,
    batch_norm: str,
    validate: Validate,
    report: Report,
    group: OneProcess | None = None,
    start: State | None = None,
) -> None:
    """Train `model` in place.

    Args:
        model: on its device, not wrapped; its children are the stages, first to last.
        batches: images (B, 1, S, S) float32, labels (B,) int64, weights (B,) float32, on the device.
        config: the run's numbers.
        execution: the device and the number format of autocast.
        batch_norm: `eval` or `local`, what statistics do in learning stages.
        validate: the bare model, in eval mode -> metrics over the whole group.
        report: called after every epoch on every rank with the metrics and a state to resume from.
        group: this process's place among the workers; none given: alone.
        start: a state that `report` was given; training goes on behind it.

    Raises:
        RunError: the loss is no longer a finite number.

    """
    group = group or OneProcess()
    schedule, steps = schedule_of(config.schedule), len(batches)
    groups = stage_groups(model, lr=config.lr, decay=config.lr_decay, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups)  # skips what has no gradient: one optimizer for every depth
    peaks = [each["lr"] for each in groups]
    first, depth, net = 0, 0, nn.Module()
    if start:
        first = start["epoch"] + 1
        model.load_state_dict(start["model"])
        optimizer.load_state_dict(start["optimizer"])
        log.info("going on behind epoch %d", first)
    for epoch in range(first, config.epochs):
        now = depth_at(schedule, epoch)
        set_learning(model, now, batch_norm=batch_norm)  # every epoch: `validate` left the model in eval mode
        if now != depth:
            # DDP fixes the gradients it averages when it is built: wrap again, or ranks drift apart.
            depth, net = now, group.wrap(model)
            log.info("epoch %d: the last %d of %d stages learn", epoch + 1, min(now, len(model)), len(model))
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        totals = torch.zeros(4, device=execution.device)
        for step, (images, labels, weights) in enumerate(batches(epoch), start=epoch * steps):
            share = rate_at(step, steps=steps, config=config)
            for each, peak in zip(optimizer.param_groups, peaks, strict=True):
                each["lr"] = peak * share
            with execution.autocast():
                logits = net(images)
            losses = losses_of(logits, labels, smoothing=config.label_smoothing) * weights
            everywhere = group.sum(weights.sum())
            optimizer.zero_grad(set_to_none=True)
            (losses.sum() * group.size / everywhere).backward()  # DDP takes the mean over ranks
            nn.utils.clip_grad_norm_(learning, config.clip_norm)
            optimizer.step()
            real = weights > 0
            right = (logits.argmax(1) == labels) & real
            totals += torch.stack([losses.detach().sum(), weights.sum(), right.sum(), real.sum()])
        loss, weight, hits, seen = group.sum(totals).tolist()
        if not math.isfinite(loss):
            raise RunError(f"epoch {epoch + 1}: the loss is {loss}; a lower learning rate than {config.lr:g} may help")
        share_rank_0s_buffers(model, group)
        metrics = {"epoch": epoch, "train_loss": loss / weight, "train_accuracy": hits / seen}
        metrics |= validate(model.eval()) | {"lr": peaks[-1] * share, "stages": min(now, len(model))}
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        report(metrics, state | {"made": {"execution": execution.reason, "batch_norm": batch_norm}})


def rate_at(step: int, *, steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero (Loshchilov and Hutter, 2017).

    >>> [round(rate_at(s, steps=2, config=TrainConfig(epochs=3)), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    warm_up = min(config.warmup_epochs, config.epochs / 2) * steps
    if step < warm_up:
        return min(1.0, (step + 1) / warm_up)
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (config.epochs * steps - warm_up)))


def share_rank_0s_buffers(model: nn.Module, group: OneProcess) -> None:
    """Give every worker rank 0's BatchNorm statistics, so that a sharded evaluation sees one model."""
    if group.size == 1:
        return
    for buffer in model.buffers():
        buffer.copy_(group.sum(buffer if group.rank == 0 else torch.zeros_like(buffer)))

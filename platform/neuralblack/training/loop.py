"""The training loop: plain PyTorch, in this process or in each of many workers."""

import logging
import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from traceback import clear_frames
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from neuralblack.config import TrainConfig
from neuralblack.errors import InputError, RunError
from neuralblack.models.execution import Execution
from neuralblack.models.heads import loss_of
from neuralblack.training.batches import Batch
from neuralblack.training.depthwise import fast_gradients
from neuralblack.training.group import OneProcess
from neuralblack.training.guidance import Guided, misplaced
from neuralblack.training.unfreezing import depth_at, schedule_of, set_learning, split_at, stage_groups, thawed_at

log = logging.getLogger(__name__)

PROGRAMS = 256  # that a process may compile; dynamo's own bound on all programs of one function

Metrics = dict[str, float]
State = dict[str, Any]  # {"epoch": int, "model": state dict, "optimizer": state dict, "made": how, for the card}
Report = Callable[[Metrics, State], None]
Validate = Callable[[nn.Sequential, nn.Sequential], Metrics]  # frozen stages, learning ones


class EpochBatches(Protocol):
    """epoch, frozen stages -> this rank's part of every global batch; its length is the steps of an epoch."""

    def __len__(self) -> int: ...
    def __call__(self, epoch: int, frozen: nn.Sequential) -> Iterator[Batch]: ...  # noqa: D102
    def rows_of(self, epoch: int, step: int) -> list[int]: ...  # noqa: D102
    def shared(self) -> float: ...  # noqa: D102


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
        batches: what the frozen stages say of views, labels, weights, and boxes where there is guidance.
        config: the run's numbers.
        execution: the device and the number format of autocast.
        batch_norm: `eval` or `local`, what statistics do in learning stages.
        validate: the bare model in its two parts, in eval mode -> metrics over the whole group.
        report: called after every epoch on every rank with the metrics and a state to resume from.
        group: this process's place among the workers; none given: alone.
        start: a state that `report` was given; training goes on behind it.

    Raises:
        RunError: the loss is no longer a finite number; with the slices of the first batch where it was not.

    """
    group = group or OneProcess()
    schedule, steps, loss = schedule_of(config.schedule), len(batches), loss_of(config.loss)
    groups = stage_groups(model, lr=config.lr, decay=config.lr_decay, weight_decay=config.weight_decay)
    thawed = [thawed_at(schedule, group.pop("depth")) or 0 for group in groups]
    optimizer = torch.optim.AdamW(groups, fused=True)  # skips what has no gradient: one optimizer for every depth
    peaks = [each["lr"] for each in groups]
    gradients = fast_gradients(execution, compiled=config.compile)
    first, depth, frozen, learning_stages, net = 0, 0, nn.Sequential(), nn.Sequential(), nn.Module()
    guided = False

    def learn(batch: Batch, everywhere: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Add up gradients: logits, losses and guidance's term. The graph goes with this frame, whatever happens."""
        inputs, labels, weights, boxes = batch
        with execution.autocast(), gradients:
            found = net(inputs)
        logits, maps = found if guided else (found, None)
        losses = loss(logits, labels, smoothing=config.label_smoothing) * weights
        summed = losses.sum()
        off: Tensor | float = 0.0
        if maps is not None and boxes is not None:
            term = (misplaced(maps, labels, boxes) * weights).sum()
            summed, off = summed + config.guidance * term, term.detach()
        (summed * group.size / everywhere).backward()  # DDP takes the mean over ranks
        return logits.detach(), losses.detach(), off

    if start:
        first = start["epoch"] + 1
        model.load_state_dict(start["model"])
        optimizer.load_state_dict(_laid_out(start["optimizer"], groups))
        log.info("going on behind epoch %d", first)
    for epoch in range(first, config.epochs):
        now = depth_at(schedule, epoch)
        set_learning(model, now, batch_norm=batch_norm)  # every epoch: `validate` left the model in eval mode
        if now != depth:
            # DDP fixes the gradients it averages when it is built: wrap again, or ranks drift apart. Only the stages
            # that learn go in: the others need no graph, and nothing of them is sent.
            depth, at = now, max(0, len(model) - now)
            frozen, learning_stages = split_at(model, at)
            guided = config.guidance > 0 and len(learning_stages) > 1  # below the head alone lie maps that don't move
            whole = Guided(learning_stages) if guided else learning_stages
            net = group.wrap(compiled(whole) if config.compile else whole)
            log.info("epoch %d: the last %d of %d stages learn", epoch + 1, min(now, len(model)), len(model))
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        totals, sums = torch.zeros(4, device=execution.device), torch.zeros(steps, device=execution.device)
        astray = torch.zeros((), device=execution.device)
        for step, batch in enumerate(with_advice(batches(epoch, frozen), config.batch_size)):
            inputs, labels, weights, _ = batch
            number = epoch * steps + step
            share = rate_at(number, steps=steps, config=config)
            for each, peak, since in zip(optimizer.param_groups, peaks, thawed, strict=True):
                each["lr"] = peak * share * warm_up(number, since=since, steps=steps, config=config)
            optimizer.zero_grad(set_to_none=True)
            everywhere = group.sum(weights.sum())
            with said_what_fits(learning_stages, inputs, execution, group, optimizer):
                logits, losses, term = learn(batch, everywhere)
                nn.utils.clip_grad_norm_(learning, config.clip_norm)
                optimizer.step()  # the first one of a stage takes memory for its moments
            real = weights > 0
            right = (logits.argmax(1) == labels) & real
            sums[step] = losses.sum()
            astray += term
            totals += torch.stack([sums[step], weights.sum(), right.sum(), real.sum()])
        total, weight, hits, seen = group.sum(totals).tolist()  # the first look at a number: no step waits
        if not math.isfinite(total):
            step = int((~group.sum(sums).isfinite()).nonzero()[0])
            raise RunError(
                f"epoch {epoch + 1}: the loss is {total} from step {step + 1} on, slices "
                f"{batches.rows_of(epoch, step)} of the dataset; a lower learning rate than {config.lr:g} may help"
            )
        share_rank_0s_buffers(model, group)
        metrics = {"epoch": epoch, "train_loss": total / weight, "train_accuracy": hits / seen}
        if config.guidance:
            metrics["guidance"] = float(group.sum(astray)) / weight  # the term itself, without its weight in the loss
        metrics |= validate(frozen.eval(), learning_stages.eval())
        metrics |= {"lr": peaks[-1] * share, "stages": min(now, len(model)), "shared": batches.shared()}
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        made = {"execution": execution.reason + ", compiled" * config.compile, "batch_norm": batch_norm}
        report(metrics, state | {"made": made})


def compiled(stages: nn.Module) -> nn.Module:
    """Compile stages for training, one program for each size of batch, with the same bits in every process."""
    # Dynamo counts programs by function, and every Sequential of a process runs the same one: its 8 are gone after four
    # phases with a smaller last batch each, and where `fullgraph` is asked for the ninth is an error.
    torch._dynamo.config.recompile_limit = PROGRAMS
    program: nn.Module = torch.compile(stages, dynamic=False, fullgraph=True, options={"deterministic": True})  # type: ignore[assignment]
    return program


def _laid_out(moments: State, groups: list[dict[str, Any]]) -> State:
    """Lay an optimizer's moments out as their parameters are: its fused step reads memory in order, not by strides.

    A checkpoint keeps them contiguous; a convolution's weights are channels_last. (pytorch 2.13: no error, wrong sums.)
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    state = {
        number: {
            name: torch.empty_like(parameters[number]).copy_(value) if value.ndim else value
            for name, value in values.items()
        }
        for number, values in moments["state"].items()
    }
    return moments | {"state": state}


def with_advice(batches: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Pass batches on; where a batch does not fit into memory before the stages that learn, raise a RunError."""
    try:
        yield from batches
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory in the frozen stages with {batch_size} slices; --set batch_size={max(1, batch_size // 2)}"
        ) from error


@contextmanager
def said_what_fits(
    learning: nn.Sequential,
    inputs: Tensor,
    execution: Execution,
    group: OneProcess,
    optimizer: torch.optim.AdamW,
) -> Generator[None, None, None]:
    """Turn "out of memory" in a step into a RunError that names a batch size with which a step was possible.

    A batch of one slice whose maps are one pixel has no spread for BatchNorm: an InputError.

    Args:
        learning: the stages that learn, not wrapped: the other workers take no part in the trials.
        inputs: of this worker's part of the batch, (B, C, H, W).
        execution: device and number format.
        group: the workers, each with as many slices.
        optimizer: of the stages; the trials leave room for the moments that it does not have yet.

    """
    try:
        yield
        return
    except torch.OutOfMemoryError as error:
        clear_frames(error.__traceback__)  # while `with` handles the exception they hold the failed step's tensors
        learning.zero_grad(set_to_none=True)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "batch_norm",
            found=f"{len(inputs)} slice of a worker in a batch, of which a map is one pixel",
            expected="more than one value to learn a spread from",
            fix="--set batch_norm=eval, a larger --set size, or another --set batch_size",
        ) from error
    count = len(inputs) // 2
    while count and not _fits(learning, inputs[:count], execution, optimizer):
        count //= 2
    advice = f"--set batch_size={count * group.size} fits" if count else "not even one slice fits: another network"
    raise RunError(f"out of memory with {len(inputs)} slices on each of {group.size} workers; {advice}")


def _fits(learning: nn.Sequential, inputs: Tensor, execution: Execution, optimizer: torch.optim.AdamW) -> bool:
    parameters = [parameter for parameter in learning.parameters() if parameter.requires_grad]
    bare = [parameter for parameter in parameters if "exp_avg_sq" not in optimizer.state.get(parameter, {})]
    try:
        room = [torch.empty_like(parameter) for parameter in bare for _ in range(2)]  # AdamW's first and second moment
        with execution.autocast():
            logits = learning(inputs)
        # Not `backward`: DDP, in the middle of the failed step, would count its parameters a second time and raise.
        torch.autograd.grad(logits.float().sum(), parameters, allow_unused=True)
        del room  # only now: it is part of what has to fit
    except torch.OutOfMemoryError:
        return False
    return True


def rate_at(step: int, *, steps: int, config: TrainConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero (Loshchilov and Hutter, 2017).

    >>> [round(rate_at(s, steps=2, config=TrainConfig(epochs=3)), 2) for s in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    length = _warm_up_steps(0, steps=steps, config=config)
    if step < length:
        return min(1.0, (step + 1) / length)
    return 0.5 * (1 + math.cos(math.pi * (step - length) / (config.epochs * steps - length)))


def warm_up(step: int, *, since: int, steps: int, config: TrainConfig) -> float:
    """Share of its rate that a stage learns with which was unfrozen in epoch `since`: linear, as at the start of a run.

    Adam's first steps are as long as its rate, whatever the gradient: at full rate they undo what was pretrained.

    >>> [warm_up(s, since=1, steps=2, config=TrainConfig(epochs=3)) for s in (2, 3, 4)]
    [0.5, 1.0, 1.0]
    """
    length = _warm_up_steps(since, steps=steps, config=config)
    if since == 0 or length <= 0:
        return 1.0  # `rate_at` warms up the run itself
    return min(1.0, (step - since * steps + 1) / length)


def _warm_up_steps(since: int, *, steps: int, config: TrainConfig) -> float:
    """Count the steps of a warm-up from epoch `since` on: no more than half of those that are left."""
    return min(config.warmup_epochs, (config.epochs - since) / 2) * steps


def share_rank_0s_buffers(model: nn.Module, group: OneProcess) -> None:
    """Give every worker rank 0's BatchNorm statistics, so that a sharded evaluation sees one model."""
    if group.size == 1:
        return
    for buffer in model.buffers():
        buffer.copy_(group.sum(buffer if group.rank == 0 else torch.zeros_like(buffer)))

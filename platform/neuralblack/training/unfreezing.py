"""Which stages learn when. A schedule counts stages from the head down, so it fits every row of MODELS."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from neuralblack.errors import InputError

ALL = 1_000  # more stages than any network has

SCHEDULES: dict[str, dict[int, int]] = {
    # from this epoch on: so many stages learn, counted from the head down
    "head-only": {0: 1},
    "probe-then-all": {0: 1, 2: ALL},
    "top-down": {0: 1, 1: 2, 2: 3, 3: ALL},
    "top-down-slowly": {0: 1, 2: 2, 4: 3, 6: ALL},
    "all": {0: ALL},
}


def schedule_of(choice: str | Mapping[int, int]) -> dict[int, int]:
    """Look a schedule up, or take one as it is; raises InputError where it is unknown or where nothing would learn."""
    if isinstance(choice, str):
        if choice not in SCHEDULES:
            raise InputError(
                "schedule",
                found=repr(choice),
                expected="one of " + ", ".join(SCHEDULES),
                fix="--set schedule=NAME, or your own: --set 'schedule={0: 1, 3: 2}'",
            )
        choice = SCHEDULES[choice]
    if 0 not in choice or min(choice) < 0 or min(choice.values()) < 1:
        raise InputError(
            "schedule",
            found=f"{dict(choice)}, with an epoch in which no stage learns",
            expected="{epoch: stages that learn}, from epoch 0 on, at least 1 stage each",
            fix="--set 'schedule={0: 1, 3: 2}'",
        )
    return dict(choice)


def depth_at(schedule: Mapping[int, int], epoch: int) -> int:
    """Count the stages that learn in this epoch, from the head down.

    >>> [depth_at({0: 1, 2: 2, 4: 3}, epoch) for epoch in range(6)]
    [1, 1, 2, 2, 3, 3]
    """
    return schedule[max(start for start in schedule if start <= epoch)]


def thawed_at(schedule: Mapping[int, int], depth: int) -> int | None:
    """Find the first epoch in which so many stages learn; None: none is.

    >>> [thawed_at({0: 1, 2: 3}, depth) for depth in (1, 2, 3, 4)]
    [0, 2, 2, None]
    """
    return min((epoch for epoch, learning in schedule.items() if learning >= depth), default=None)


def set_learning(model: nn.Sequential, depth: int, *, batch_norm: str) -> None:
    """Let the last `depth` stages learn; the others keep weights and BatchNorm statistics.

    Args:
        model: stages, first to last.
        depth: stages that learn, counted from the head down.
        batch_norm: `eval` keeps the statistics of learning stages too, `local` learns them from the batches. Behind a
            pooling (MobileNetV4's head) they are kept in any case: of a batch of one slice there would be none.

    """
    frozen = max(0, len(model) - depth)
    for index, stage in enumerate(model):
        stage.requires_grad_(index >= frozen)
        stage.train(index >= frozen)  # a frozen BatchNorm in train mode would still drift
        if batch_norm == "eval" or isinstance(next(stage.children(), None), nn.AdaptiveAvgPool2d):
            for layer in stage.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()


def split_at(model: nn.Sequential, at: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Split stages in two that share their modules; their names stay, so their states have the same keys."""
    first, second = model[:at], model[at:]
    assert isinstance(first, nn.Sequential) and isinstance(second, nn.Sequential)
    return first, second


def stage_groups(model: nn.Sequential, *, lr: float, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Make two optimiser groups per stage, each stage below the head learning `decay` times slower (ULMFiT, 2018).

    Biases and BatchNorm's parameters, which are vectors, are not decayed (as in the ResNet recipes since 2018). `depth`
    of a group is how many stages learn, counted from the head down, where it does.
    """
    top = len(model) - 1
    return [
        {"params": parameters, "lr": lr / decay ** (top - index), "weight_decay": amount, "depth": top - index + 1}
        for index, stage in enumerate(model)
        for parameters, amount in (
            ([p for p in stage.parameters() if p.ndim > 1], weight_decay),
            ([p for p in stage.parameters() if p.ndim <= 1], 0.0),
        )
        if parameters
    ]

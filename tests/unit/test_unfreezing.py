"""Unfreezing: what learns when, and what is refused."""

import pytest
import torch
from torch import nn

from neuralblack.errors import InputError
from neuralblack.training.unfreezing import SCHEDULES, depth_at, schedule_of, set_learning, stage_groups


def stages() -> nn.Sequential:
    return nn.Sequential(*(nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1)) for _ in range(4)))


def test_every_schedule_of_the_table_lets_the_head_learn_from_the_first_epoch_on():
    for name in SCHEDULES:
        assert depth_at(schedule_of(name), 0) >= 1


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("bottom-up", ["'bottom-up'", "head-only, probe-then-all, top-down, top-down-slowly, all"]),
        ({0: 0}, ["no stage learns", "at least 1 stage"]),
        ({2: 1}, ["no stage learns", "from epoch 0"]),
        ({}, ["no stage learns"]),
    ],
    ids=["unknown", "nothing", "nothing at first", "empty"],
)
def test_a_schedule_that_is_unknown_or_teaches_nothing_is_refused(choice, words):
    with pytest.raises(InputError) as error:
        schedule_of(choice)

    for word in words:
        assert word in str(error.value)


def test_a_frozen_stage_keeps_its_batch_norm_statistics():
    model = stages()
    set_learning(model, 2, batch_norm="local")

    model(torch.randn(8, 1, 12, 12))

    moved = [bool(stage[1].running_mean.any()) for stage in model]
    assert moved == [False, False, True, True]
    assert [stage[0].weight.requires_grad for stage in model] == [False, False, True, True]


def test_batch_norm_in_eval_keeps_the_statistics_of_learning_stages_too():
    model = stages()
    set_learning(model, 4, batch_norm="eval")

    model(torch.randn(8, 1, 12, 12))

    assert not any(stage[1].running_mean.any() for stage in model)


def test_each_stage_below_the_head_learns_slower():
    groups = stage_groups(stages(), lr=0.1, decay=2.0, weight_decay=0.3)

    assert [group["lr"] for group in groups[::2]] == [0.0125, 0.025, 0.05, 0.1]
    assert {group["weight_decay"] for group in groups[::2]} == {0.3}
    assert {group["weight_decay"] for group in groups[1::2]} == {0.0}

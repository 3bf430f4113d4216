"""Guidance: what speaks for a tumour's class is asked to lie in its box, and without it nothing changes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny import _stages
from tests.unit.test_training import CONFIG, on_workers, short_run
from torch import nn

from neuralblack.config import AugmentationConfig
from neuralblack.data.dataset import NO_BOX
from neuralblack.errors import InputError
from neuralblack.inference.gradcam import grad_cam
from neuralblack.models.table import MODELS
from neuralblack.training import batches, guidance, loop, recipe, runs
from neuralblack.training.augmentation import augment, moved, uniform
from neuralblack.training.checkpoints import load_state, save_state
from neuralblack.training.group import OneProcess
from neuralblack.training.guidance import Guided, misplaced, rasterised

GUIDED = CONFIG.model_copy(update={"guidance": 1.0, "schedule": {0: 1, 1: 3}, "epochs": 5})
MOST = -math.log(guidance.SHARE)


def box(*edges: int, size: int = 8) -> torch.Tensor:
    """A box in pixels of a picture, rasterised: (1, 1, size, size)."""
    return rasterised(torch.tensor([edges]) / size, size)


def heat_at(row: int, column: int, *, side: int = 4) -> torch.Tensor:
    """A map of one class with all its mass in one cell: (1, side, side, 1)."""
    maps = torch.full((1, side, side, 1), -1.0)
    maps[0, row, column] = 10
    return maps


NO_CLASS_BUT_0 = torch.tensor([0])


# The term


def test_the_term_is_0_where_all_mass_is_in_the_box_and_large_where_none_is():
    tumour = box(4, 2, 6, 4)  # the cell in row 1 and column 2 of 4 x 4

    assert misplaced(heat_at(1, 2), NO_CLASS_BUT_0, tumour).item() == pytest.approx(0, abs=1e-3)
    assert misplaced(heat_at(2, 1), NO_CLASS_BUT_0, tumour).item() == pytest.approx(MOST, rel=0.1)


def test_a_tumour_smaller_than_a_cell_can_be_met_too():
    assert misplaced(heat_at(1, 2), NO_CLASS_BUT_0, box(5, 3, 6, 4)).item() == pytest.approx(0, abs=1e-3)


def test_the_map_is_that_of_the_slices_own_class():
    maps = torch.cat([heat_at(0, 0), heat_at(1, 2), heat_at(3, 3)], 3)

    terms = misplaced(maps.expand(3, -1, -1, -1), torch.tensor([0, 1, 2]), box(4, 2, 6, 4).expand(3, -1, -1, -1))

    assert terms.tolist() == pytest.approx([MOST, 0, MOST], rel=0.1, abs=1e-3)


def test_a_slice_without_a_box_costs_nothing_and_moves_nothing():
    maps = heat_at(2, 2).requires_grad_()

    term = misplaced(maps, NO_CLASS_BUT_0, box(-1, -1, -1, -1)).sum()
    term.backward()

    assert term.item() == 0
    assert not maps.grad.any()


def test_a_map_cannot_escape_by_saying_nothing_for_the_class():
    maps = torch.full((1, 4, 4, 1), -5.0, requires_grad=True)

    term = misplaced(maps, NO_CLASS_BUT_0, box(4, 2, 6, 4)).sum()
    term.backward()

    assert term.item() == pytest.approx(math.log(16), rel=0.01)
    assert maps.grad[0, 1, 2, 0] < 0  # a step lifts the box's cell ...
    assert (maps.grad.flatten() > 0).sum() == 15  # ... and lowers all others


def test_steps_against_the_gradient_move_the_map_into_the_box():
    maps = torch.rand(1, 4, 4, 1, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tumour = box(4, 2, 6, 4)
    optimizer = torch.optim.SGD([maps], lr=1.0)
    terms = []
    for _ in range(200):
        optimizer.zero_grad()
        terms.append(misplaced(maps, NO_CLASS_BUT_0, tumour).sum())
        terms[-1].backward()
        optimizer.step()

    heat = maps.detach()[0, ..., 0]
    assert terms[0] > 2 and terms[-1] < 0.05
    assert heat.flatten().argmax() == 1 * 4 + 2


def test_the_maps_are_those_that_the_report_draws_and_their_mean_is_the_logit():
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    stages = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), head).eval()
    image = torch.randn(1, 1, 17, 17)

    logits, maps = Guided(stages)(image)

    assert torch.equal(logits, stages(image))
    assert torch.allclose(maps.mean((1, 2)) + head[2].bias, logits, atol=1e-6)
    heat = maps[0, ..., 1].relu()
    assert torch.allclose(heat / heat.max(), grad_cam(stages, image, 1), atol=1e-5)


# The box


def test_a_box_is_drawn_as_the_share_of_each_pixel_that_it_covers():
    found = rasterised(torch.tensor([[0.125, 0.25, 0.75, 0.5], [-1, -1, -1, -1]]), 4)

    rows = [[0, 0, 0, 0], [0.5, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found[0, 0].tolist() == rows
    assert not found[1].any()


def test_the_box_follows_the_view_of_its_slice():
    config = AugmentationConfig(gain=0, gamma=0)
    boxes = torch.tensor([[6, 20, 26, 28]] * 12)  # left of the middle, wider than high
    slices = torch.zeros(12, 1, 32, 32)
    slices[:, :, 20:28, 6:26] = 1
    numbers = torch.arange(12)

    views = augment(slices, numbers, epoch=2, seed=3, config=config)
    masks = moved(rasterised(boxes / 32, 32), numbers, epoch=2, seed=3, config=config)

    assert torch.allclose(views, masks, atol=1e-6)
    assert not torch.allclose(views[0], views[1], atol=0.1)


def test_batches_bring_the_box_beside_the_view(dataset, tiny, monkeypatch):
    found = []
    monkeypatch.setattr(loop, "misplaced", lambda maps, labels, boxes: found.append(boxes) or maps.sum((1, 2, 3)) * 0)

    short_run(dataset.path, GUIDED, OneProcess())

    covered = torch.cat(found).sum((1, 2, 3))
    assert found[0].shape == (7, 1, 32, 32)
    assert (covered > 0).any() and (covered == 0).any()  # of a tumour, and of none


# Without it


def old_augment(unit, images, *, epoch, seed, config):
    """What `augment` was before it was split into geometry and intensities."""

    def draw(k, reach):
        return (2 * uniform(seed, images, epoch, k) - 1) * reach

    angle, scale = draw(0, math.radians(config.rotate_degrees)), 1 + draw(1, config.scale)
    shift_x, shift_y = draw(2, 2 * config.shift), draw(3, 2 * config.shift)
    mirror = torch.where(uniform(seed, images, epoch, 4) < config.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = [torch.stack([mirror * cos, mirror * -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(unit.shape), align_corners=False)
    unit = nn.functional.grid_sample(unit, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, gamma = 1 + draw(5, config.gain), 1 + draw(6, config.gamma)
    return (unit.clamp(0, 1) ** gamma[:, None, None, None] * gain[:, None, None, None]).clamp(0, 1)


def test_views_have_the_bits_that_they_had_before_boxes_could_follow_them():
    unit = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    how = {"epoch": 3, "seed": 5, "config": AugmentationConfig()}

    assert torch.equal(augment(unit, torch.arange(6), **how), old_augment(unit, torch.arange(6), **how))


def test_without_guidance_nothing_of_it_runs(dataset, tiny, monkeypatch):
    def never(*_, **__):
        raise AssertionError("guidance is off")

    expected, before = short_run(dataset.path, CONFIG, OneProcess())
    for module, name in ((loop, "Guided"), (loop, "misplaced"), (batches, "rasterised"), (recipe, "line_of")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(batches, "augment", old_augment)
    found, after = short_run(dataset.path, CONFIG.model_copy(update={"guidance": 0.0}), OneProcess())

    assert found == expected and "guidance" not in found[0]
    assert all(torch.equal(after["model"][key], value) for key, value in before["model"].items())


def test_while_the_head_alone_learns_guidance_changes_no_bit(dataset, tiny):
    head_only = CONFIG.model_copy(update={"schedule": "head-only", "epochs": 2})

    _, plain = short_run(dataset.path, head_only, OneProcess())
    epochs, guided = short_run(dataset.path, head_only.model_copy(update={"guidance": 1.0}), OneProcess())

    assert [row["guidance"] for row in epochs] == [0, 0]
    assert all(torch.equal(guided["model"][key], value) for key, value in plain["model"].items())


# With it


def test_a_guided_run_learns_to_look_into_the_box(dataset, tiny):
    config = GUIDED.model_copy(update={"epochs": 12, "batch_norm": "local"})

    epochs, _ = short_run(dataset.path, config, OneProcess())
    terms = [row["guidance"] for row in epochs]

    assert terms[0] == 0  # the head alone learns
    assert sum(terms[-3:]) / 3 < 0.9 * terms[1]


def test_a_guided_run_that_was_stopped_ends_with_the_weights_of_the_unbroken_one(dataset, tiny, tmp_path):
    whole, at_end = short_run(dataset.path, GUIDED, OneProcess())
    _, plain = short_run(dataset.path, GUIDED.model_copy(update={"guidance": 0.0}), OneProcess())

    part, state = short_run(dataset.path, GUIDED, OneProcess(), stop_behind=2)
    save_state(state, part[-1], tmp_path)
    rest, resumed = short_run(dataset.path, GUIDED, OneProcess(), start=load_state(tmp_path))

    assert part + rest == whole and whole[-1]["guidance"] > 0
    assert all(torch.equal(resumed["model"][key], value) for key, value in at_end["model"].items())
    assert not all(torch.equal(plain["model"][key], value) for key, value in at_end["model"].items())


def test_two_workers_learn_by_guidance_what_one_learns_and_hold_equal_weights(dataset, tiny):
    config = GUIDED.model_copy(update={"epochs": 3, "lr": 0.1})
    ((first, first_weights), (second, second_weights)), *_ = on_workers(2, dataset.path, [config])
    alone, _ = short_run(dataset.path, config, OneProcess())

    assert first == second and first[1]["guidance"] > 0
    assert all((first_weights[key] == second_weights[key]).all() for key in first_weights)
    for name in ("train_loss", "guidance", "loss", "accuracy"):
        assert [row[name] for row in first] == pytest.approx([row[name] for row in alone], rel=1e-4), name


# What is refused


def test_a_dataset_without_boxes_is_refused_before_a_worker_starts(dataset, tiny, monkeypatch):
    bare = replace(dataset, boxes=np.full((len(dataset), 4), NO_BOX))

    runs.check_run(GUIDED, data=dataset.path)
    monkeypatch.setattr(runs, "open_dataset", lambda _: bare)

    runs.check_run(CONFIG, data=dataset.path)
    with pytest.raises(InputError, match=r"guidance: found \d+ slices.*none with the box.*--set guidance=0"):
        runs.check_run(GUIDED, data=dataset.path)


def test_a_head_without_class_activation_maps_is_refused_before_anything_starts(tiny, monkeypatch):
    def other_head(net, line):
        stages = _stages(net, line)
        stages["head"] = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), line)
        return stages

    recipe.check(GUIDED, classes=4)
    monkeypatch.setitem(MODELS, "tiny", replace(MODELS["tiny"], stages=other_head))

    recipe.check(CONFIG, classes=4)
    with pytest.raises(InputError, match=r"guidance: found tiny, whose head is not a mean.*--set guidance=0"):
        recipe.check(GUIDED, classes=4)

"""Augmentation: a function of (seed, image, epoch) and of nothing else."""

import torch

from neuralblack.config import AugmentationConfig
from neuralblack.training.augmentation import augment, uniform

CONFIG = AugmentationConfig()
NOTHING = AugmentationConfig(rotate_degrees=0, shift=0, scale=0, flip=0, gain=0, gamma=0)


def unit_images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_view_does_not_depend_on_the_rest_of_the_batch():
    images, numbers = unit_images(), torch.arange(6)

    whole = augment(images, numbers, epoch=3, seed=5, config=CONFIG)
    parts = [augment(images[i : i + 2], numbers[i : i + 2], epoch=3, seed=5, config=CONFIG) for i in (0, 2, 4)]

    assert torch.equal(whole, torch.cat(parts))


def test_seed_image_and_epoch_each_change_the_view():
    image = unit_images(1)
    views = [
        augment(image, torch.tensor([number]), epoch=epoch, seed=seed, config=CONFIG)
        for number, epoch, seed in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]

    assert all(not torch.equal(a, b) for i, a in enumerate(views) for b in views[:i])


def test_a_config_of_zeros_shows_the_slice_itself():
    images = unit_images()

    assert torch.equal(augment(images, torch.arange(6), epoch=0, seed=0, config=NOTHING), images)


def test_a_sure_flip_is_a_mirror_image():
    images = unit_images()
    flipped = augment(images, torch.arange(6), epoch=0, seed=0, config=NOTHING.model_copy(update={"flip": 1.0}))

    assert torch.allclose(flipped, images.flip(-1), atol=1e-5)


def test_draws_are_uniform_and_independent():
    numbers = torch.arange(20_000)
    draws = torch.stack([uniform(0, numbers, epoch, k) for epoch in (0, 1) for k in (0, 1)])

    assert torch.all((draws >= 0) & (draws < 1))
    assert torch.allclose(draws.mean(1), torch.tensor(0.5), atol=0.01)  # 5 standard errors
    assert torch.allclose(torch.corrcoef(draws), torch.eye(4), atol=0.035)

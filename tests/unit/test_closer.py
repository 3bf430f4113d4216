"""Disturbances, heat maps against boxes, and the slices that are chosen for both."""

import numpy as np
import pytest
from PIL import Image

from neuralblack.evaluation.closer import measure_pointing, measure_robustness, pointing, sample_of_classes
from neuralblack.evaluation.disturbances import DISTURBANCES, disturb


@pytest.fixture(scope="module")
def image(dataset):
    return np.asarray(Image.fromarray(dataset.images[0]).resize((256, 256)))


@pytest.mark.parametrize("name", DISTURBANCES)
def test_each_disturbance_has_three_strengths_that_change_a_slice(image, name):
    strengths = list(DISTURBANCES[name].strengths)
    changed = [disturb(image, name, strength) for strength in strengths]

    assert len(strengths) == 3
    for one in changed:
        assert one.dtype == np.uint8 and one.shape == image.shape
        assert not np.array_equal(one, image)
    assert np.array_equal(disturb(image, name, strengths[0]), changed[0]), "the same seed gives the same slice"


@pytest.mark.parametrize("name", [name for name in DISTURBANCES if name not in ("mirrored", "gamma")])
def test_a_stronger_disturbance_changes_more(image, name):
    change = [
        np.abs(disturb(image, name, strength).astype(float) - image).mean() for strength in DISTURBANCES[name].strengths
    ]

    assert change == sorted(change) and change[0] > 0


def test_noise_is_rician_and_a_mirrored_slice_is_the_same_one_back(image):
    black = np.zeros((256, 256), np.uint8)

    assert disturb(black, "noise", "6%").mean() == pytest.approx(15 * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    for way in DISTURBANCES["mirrored"].strengths:
        assert np.array_equal(disturb(disturb(image, "mirrored", way), "mirrored", way), image)


def test_robustness_counts_each_way_with_the_model_that_was_given(dataset):
    """A model that says whether a slice's left half is the brighter one: mirrored it is wrong every time."""
    images = np.zeros((10, 64, 64), np.uint8)
    images[:5, :, :32] = images[5:, :, 32:] = 200
    labels = np.repeat([0, 1], 5)

    def classify(images):
        left = images[:, :, :32].mean((1, 2)) > images[:, :, 32:].mean((1, 2))
        return np.stack([left, ~left], 1).astype(float)

    found = measure_robustness(classify, images, labels)

    assert found["slices"] == 10 and found["undisturbed"] == {"accuracy": 1.0, "ece": 0.0}
    assert set(found["disturbed"]) == set(DISTURBANCES)
    assert found["disturbed"]["mirrored"]["left-right"] == {"accuracy": 0.0, "ece": 1.0}
    assert found["disturbed"]["JPEG"]["quality 75"]["accuracy"] == 1.0


def test_a_map_that_points_into_the_box_is_counted_by_class(dataset):
    boxed = np.flatnonzero(dataset.boxes[:, 0] >= 0)

    def inside(pixels, label, box):
        (row,) = [row for row in boxed if np.array_equal(dataset.images[row], pixels)]
        x0, y0, x1, y1 = dataset.boxes[row]
        heat = np.zeros(pixels.shape, np.uint8)
        heat[y0:y1, x0:x1] = 255
        return heat

    found = measure_pointing(inside, dataset, np.arange(len(dataset)))
    blind = measure_pointing(lambda pixels, label, box: np.zeros_like(pixels), dataset, np.arange(len(dataset)))

    assert set(found) == {dataset.labels[row] for row in boxed}
    assert sum(one["slices"] for one in found.values()) == len(boxed)
    assert all(one["pointing"] == one["mass"] == 1 > one["box"] > 0 for one in found.values())
    assert all(one["pointing"] == one["mass"] == 0 for one in blind.values())


def test_a_flat_map_has_the_boxs_share_of_the_heat():
    _, mass, box = pointing(np.ones((8, 8)), (2, 2, 6, 4))

    assert mass == box == 8 / 64


def test_a_sample_takes_classes_in_turn_and_patients_before_their_second_slices():
    labels = np.array([0] * 80 + [1] * 20)
    patients = [f"p{index // 10}" for index in range(100)]

    chosen = sample_of_classes(labels, patients, most=10)

    assert len(chosen) == 10 and (np.diff(chosen) > 0).all()
    assert np.bincount(labels[chosen]).tolist() == [5, 5]
    assert len({patients[index] for index in chosen if labels[index] == 0}) == 5
    assert np.array_equal(chosen, sample_of_classes(labels, patients, most=10))
    assert len(sample_of_classes(labels, patients, most=500)) == 100
    assert not len(sample_of_classes(labels, patients, most=0))

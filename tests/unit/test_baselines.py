import numpy as np
import pytest

from neuralblack.data.splits import make_split
from neuralblack.evaluation.baselines import linear_probe, majority, measure_baselines, nearest_thumbnail

CLASSES = ("cat", "dog", "owl")


def test_majority_gives_all_the_most_frequent_class_of_training():
    summary = majority(np.array([1, 1, 0]), np.array([0, 1, 1, 2]), CLASSES)

    assert summary["accuracy"] == 0.5
    assert [row[1] for row in summary["confusion"]] == [1, 2, 1]


def test_nearest_thumbnail_answers_with_its_neighbours_class():
    train = np.array([[0.0, 0], [10, 0], [0, 10]], np.float32)
    test = np.array([[1.0, 1], [9, 2], [2, 8], [8, 1]], np.float32)

    summary = nearest_thumbnail(train, np.array([0, 1, 2]), test, np.array([0, 1, 2, 2]), CLASSES)

    assert summary["accuracy"] == 0.75
    assert summary["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert summary["log_loss"] is None


def test_linear_probe_separates_what_a_line_separates():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 40)
    features = np.eye(3)[labels] * 4 + rng.normal(0, 0.5, (120, 3))

    probabilities = linear_probe(features[::2], labels[::2], features[1::2], count=3)

    assert probabilities.shape == (60, 3)
    assert np.allclose(probabilities.sum(1), 1)
    assert (probabilities.argmax(1) == labels[1::2]).all()


def test_linear_probe_gives_a_class_it_never_saw_no_probability():
    probabilities = linear_probe(np.array([[0.0], [1.0]]), np.array([0, 2]), np.array([[0.5]]), count=3)

    assert probabilities[0, 1] == 0
    assert probabilities.sum() == pytest.approx(1)


def test_thumbnails_know_the_slices_they_were_made_of(dataset):
    rows = np.arange(len(dataset))

    found = measure_baselines(dataset, rows, rows, dataset.classes)

    assert found["1-NN on thumbnails"]["accuracy"] == 1.0


def test_phantoms_are_no_giveaway_for_thumbnails_of_other_patients(dataset):
    split = make_split(dataset, train=None, validation=[4], test=[5])

    found = measure_baselines(dataset, split.train, split.test, split.classes)

    assert set(found) == {"majority class", "1-NN on thumbnails"}
    assert found["1-NN on thumbnails"]["accuracy"] < 0.8


def test_slices_of_a_class_the_model_lacks_are_not_counted(dataset):
    rows = np.arange(len(dataset))
    classes = tuple(name for name in dataset.classes if name != "no tumour")

    found = measure_baselines(dataset, rows, rows, classes)

    assert found["majority class"]["slices"] == sum(label in classes for label in dataset.labels) < len(dataset)
